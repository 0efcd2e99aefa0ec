"""Both ends of the wire: the daemon's :class:`Publisher`, everyone's :class:`Subscriber` and :func:`request`.

Events travel as single-frame PUB messages, requests as single JSON frames to a ROUTER socket.
"""

from __future__ import annotations

import logging
import socket as sockets
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Protocol, Self

import msgspec
import zmq

from serstream.endpoints import Wire, milliseconds, poll_async, take
from serstream.errors import ConfigError, SerstreamError, TransportError
from serstream.events import EVENT_TYPES, SOURCE_ID, TOPIC_PREFIX, AnyEvent, Health, decode, decode_json, encode
from serstream.history import PAGE_EVENTS, Answer, Follower, History, Lost, Request

__all__ = ["PAGE_EVENTS", "Answer", "Handler", "Lost", "Publisher", "Request", "Subscriber", "request"]

EVENTS_ENDPOINT = "tcp://127.0.0.1:5755"
CONTROL_ENDPOINT = "tcp://127.0.0.1:5756"
AUDIO_ENDPOINT = "tcp://127.0.0.1:5757"
MAX_REQUEST_BYTES = 65_536
QUEUED_EVENTS = 10_000
"""Events that wait for a slow subscriber before it loses some."""
CLOSE_LIMIT_S = 0.5

TYPES = tuple(str(t.__struct_config__.tag) for t in EVENT_TYPES)

Handler = Callable[[Request], Any]
"""Answers a request that is not about events, or raises a SerstreamError; runs on the control thread."""

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What remembers events for longer than a publisher does."""

    def add(self, event: AnyEvent, body: bytes) -> None:
        """Take an event as it was sent, with its JSON; never waits."""

    def page(self, request: Request) -> tuple[list[bytes], bool]:
        """Return what it has of a page that a ``replay`` asks for, in any order, and whether there is more."""


class Publisher:
    """Publishes events and answers requests, for one session.

    Parameters
    ----------
    events, control : str
        Endpoints to bind: ``tcp://ADDRESS:PORT`` (port 0 for any), ``ipc://PATH``, or with ``context``
        ``inproc://NAME``; :attr:`events_endpoint` and :attr:`control_endpoint` say what was bound.
    session : str
        UUID of this start of the daemon, which every event carries.
    handler : callable, optional
        Answers every request but ``snapshot`` and ``replay``, one at a time on the control thread.
    insecure : bool
        Allow TCP addresses other than loopback.
    replay_s, replay_mb : float
        Events are kept for replay for this many seconds, and at most this many megabytes of them.
    recorder : Recorder, optional
        Is given every event, and asked for what a replay does not find in memory.
    context : zmq.Context, optional
        A shared context, for ``inproc``; its owner ends it.

    Raises
    ------
    ConfigError
        If an endpoint is malformed or not allowed.
    TransportError
        If it is in use, or cannot be bound.
    """

    def __init__(
        self,
        events: str = EVENTS_ENDPOINT,
        control: str = CONTROL_ENDPOINT,
        *,
        session: str,
        handler: Handler | None = None,
        insecure: bool = False,
        replay_s: float = 600.0,
        replay_mb: float = 64.0,
        recorder: Recorder | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.session = session
        self._recorder = recorder
        self._handler = handler or _refuse
        self._history = History(replay_s, replay_mb)
        self._seq: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self._wire = Wire(context)
        try:
            self._router = self._wire.socket(zmq.ROUTER, {zmq.MAXMSGSIZE: MAX_REQUEST_BYTES})
            self._pub = self._wire.socket(zmq.PUB, {zmq.SNDHWM: QUEUED_EVENTS})
            self.control_endpoint = self._wire.bind(self._router, control, insecure, "transport.control")
            self.events_endpoint = self._wire.bind(self._pub, events, insecure, "transport.events")
        except BaseException:
            self._wire.close()
            raise
        self._stop, self._stopped = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="serstream-control", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread.is_alive()

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        """Stamp, remember and send an event; called from any thread, and never waits for a subscriber.

        Parameters
        ----------
        event : AnyEvent
            With ``source``, ``session`` and ``sample`` filled in; ``topics`` of a health is filled in here.
        time : str
            RFC 3339 UTC capture time of ``event.sample``.
        latency_s : float
            Age of the newest sample used, in seconds.

        Returns
        -------
        AnyEvent
            The event as it was sent.
        """
        assert event.session == self.session, "an event carries the session of its publisher"
        topic = event.topic
        with self._lock:
            if self._pub.closed:
                raise TransportError(f"an event of {topic} came after the publisher was closed; close it last")
            newest = self._seq.setdefault(event.source, {})
            if isinstance(event, Health):
                event = msgspec.structs.replace(event, topics=dict(newest))
            newest[topic] = newest.get(topic, 0) + 1
            event = msgspec.structs.replace(event, seq=newest[topic], time=time, latency_s=latency_s)
            message = encode(event)
            body = message.partition(b" ")[2]
            self._history.add(event, body, monotonic())
            if self._recorder is not None:
                self._recorder.add(event, body)
            self._pub.send(message)
        return event

    def close(self) -> None:
        """Send what is queued, for half a second at most, and close both endpoints."""
        self._stop.close()
        self._thread.join(CLOSE_LIMIT_S)
        with self._lock:
            self._pub.close(linger=int(CLOSE_LIMIT_S * 1e3))
        if not self._thread.is_alive():
            self._stopped.close()
            self._wire.close()

    def _serve(self) -> None:
        """Answer requests until the other end of ``_stopped`` is closed; the control thread's loop."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._stopped.fileno(), zmq.POLLIN)
        while self._stopped.fileno() not in (ready := dict(poller.poll())):
            if self._router in ready:
                *envelope, body = self._router.recv_multipart()
                with suppress(zmq.ZMQError):  # the client has gone
                    self._router.send_multipart([*envelope, self._answer(body)], zmq.NOBLOCK)
        self._router.close(linger=int(CLOSE_LIMIT_S * 1e3))

    def _answer(self, body: bytes) -> bytes:
        asked_id = None
        try:
            asked_id = msgspec.json.decode(body, type=_Identified).id
            result, more = self._result(msgspec.json.decode(body, type=Request))
            return _encode({"id": asked_id, "ok": True, "more": more, "result": result})
        except SerstreamError as error:
            sentence = str(error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            sentence = f'{body[:60]!r} is no request ({error}); send one object such as {{"request": "status"}}'
        except Exception as error:
            _log.exception("a request failed")
            sentence = f"the request failed in the daemon ({error!r}); its log says more"
        return _encode({"id": asked_id, "ok": False, "more": False, "error": sentence})

    def _result(self, request: Request) -> tuple[Any, bool]:
        match request.request:
            case "snapshot":
                with self._lock:
                    bodies, more = self._history.snapshot(request.source), False
                events = _replayed(bodies)
            case "replay":
                self._check_replay(request)
                events, more = self._replay(request)
            case _:
                return self._handler(request), False
        return events, more

    def _replay(self, request: Request) -> tuple[list[AnyEvent], bool]:
        """Return a page of what memory and the recorder have, together, in order."""
        with self._lock:
            bodies, more = self._history.page(request)
        events = _replayed(bodies)
        begins = request.source is None and events and events[0].seq == request.from_seq
        if self._recorder is None or begins:  # of one topic memory has all that follows
            return events, more
        recorded, more_recorded = self._recorder.page(request)
        found = {(event.topic, event.seq): event for event in [*_replayed(recorded), *events]}
        events = [found[key] for key in sorted(found)]
        return events[:PAGE_EVENTS], more or more_recorded or len(events) > PAGE_EVENTS

    def _check_replay(self, request: Request) -> None:
        if request.session not in (None, self.session):
            raise TransportError(f"session {request.session!r} is unknown; the current session is {self.session}")
        if request.source is None and request.topic is None:
            raise TransportError("replay names neither a topic nor a source; name at least one of them")


class Subscriber:
    """Follows a daemon: ``for event in subscriber``, or ``async for``.

    It subscribes first, then takes a snapshot: the last event of each topic, marked ``replayed``, is where it
    starts. It drops doubles, fills holes of emotion, speech and gap from the daemon's memory, in order and
    marked ``replayed``, and yields :class:`Lost` for what cannot be had and for every hole of posterior and
    health. A daemon that is not there (yet, or any more) is waited for; the new session of a restarted daemon
    is followed from its first event. When the control endpoint is silent for ``control_timeout_s``, events go
    on without it. Used from one thread, or from one task, at a time.

    Parameters
    ----------
    events, control : str
        The daemon's endpoints.
    source : str, optional
        One source id, or all.
    types : collection of str, optional
        Some of posterior, emotion, speech, gap and health, or all.
    latest : bool
        Keep only the newest event of one topic (one ``source``, one type), for a reader slower than the
        events; without snapshot, and holes are not looked for.
    control_timeout_s : float
        Longest wait for one answer of the control endpoint, in seconds.
    context : zmq.Context, optional
        A shared context, for ``inproc``; its owner ends it.

    Attributes
    ----------
    lost_events : int
        Events in all :class:`Lost` items so far.

    Raises
    ------
    ConfigError
        If an endpoint is malformed, or source or types are not possible.
    TransportError
        If an endpoint cannot be connected to.
    """

    def __init__(
        self,
        events: str = EVENTS_ENDPOINT,
        control: str = CONTROL_ENDPOINT,
        source: str | None = None,
        types: Collection[str] | None = None,
        *,
        latest: bool = False,
        control_timeout_s: float = 1.0,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        prefixes = _subscriptions(source, _known(types), latest)
        self._latest = latest
        self._follower = Follower(source, _known(types), control_timeout_s)
        self._sent: Request | None = None
        self._wire = Wire(context)
        try:
            self._sub = self._wire.socket(zmq.SUB, {zmq.RCVHWM: QUEUED_EVENTS, zmq.CONFLATE: int(latest)})
            self._monitor = self._wire.monitor(self._sub)
            for prefix in prefixes:
                self._sub.subscribe(prefix)
            self._control = self._wire.socket(zmq.DEALER, {zmq.IMMEDIATE: 1})
            self._wire.connect(self._control, control)
            self._wire.connect(self._sub, events)
        except BaseException:
            self._wire.close()
            raise
        if events.startswith("inproc:"):  # which tells of no connection
            self._follower.join(monotonic())

    @property
    def lost_events(self) -> int:
        return self._follower.lost_events

    def receive(self, timeout_s: float | None = None) -> AnyEvent | Lost | None:
        """Return the next event or loss, or None after ``timeout_s`` seconds (None: wait for ever).

        Raises
        ------
        EventError
            If what arrived under the topic of an event is none; the next call goes on behind it.
        TransportError
            If the subscriber is closed.
        """
        end_s = inf if timeout_s is None else monotonic() + timeout_s
        while (item := self._next()) is None and (now_s := monotonic()) < end_s:
            zmq.zmq_poll(self._awaited(), milliseconds(min(end_s, self._follower.due_s) - now_s))
        return item

    async def receive_async(self, timeout_s: float | None = None) -> AnyEvent | Lost | None:
        """Do what :meth:`receive` does while other tasks run; cancelling it loses nothing."""
        end_s = inf if timeout_s is None else monotonic() + timeout_s
        while (item := self._next()) is None and (now_s := monotonic()) < end_s:
            await poll_async(self._awaited(), min(end_s, self._follower.due_s) - now_s)
        return item

    def close(self) -> None:
        """Close the connections; iteration ends."""
        self._wire.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AnyEvent | Lost:
        if self._sub.closed or (item := self.receive()) is None:
            raise StopIteration
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent | Lost:
        if self._sub.closed or (item := await self.receive_async()) is None:
            raise StopAsyncIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> AnyEvent | Lost | None:
        """Do what can be done without waiting, until there is an item."""
        if self._sub.closed:
            raise TransportError("the subscriber is closed; make a new one")
        while not self._follower.ready and self._step(monotonic()):
            pass
        self._send()
        return self._follower.ready.popleft() if self._follower.ready else None

    def _step(self, now_s: float) -> bool:
        """Take one message; False when nothing has arrived."""
        if take(self._monitor) is not None and not self._latest:
            self._follower.join(now_s)
        if self._control.poll(0):
            if not (self._follower.is_starting and self._hear(now_s)):
                self._read_answer(now_s)
            return True
        self._follower.tick(now_s)
        return self._follower.asking is None and self._hear(now_s)

    def _read_answer(self, now_s: float) -> None:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            answer = msgspec.json.decode(take(self._control) or b"", type=Answer)
            self._follower.answer(answer, now_s)

    def _hear(self, now_s: float) -> bool:
        if (body := take(self._sub)) is None:
            return False
        if self._latest:
            self._follower.ready.append(decode(body))
        elif self._follower.wants(body.partition(b" ")[0].decode(errors="replace")):
            self._follower.hear(decode(body), now_s)
        return True

    def _send(self) -> None:
        if self._follower.asking not in (None, self._sent):
            with suppress(zmq.Again):  # not connected yet
                self._control.send(_encode(self._follower.asking), zmq.NOBLOCK)
                self._sent = self._follower.asking

    def _awaited(self) -> list[tuple[zmq.Socket[bytes], int]]:
        """Return the sockets, and what on them can lead to the next item."""
        unsent = self._follower.asking not in (None, self._sent)
        control = (self._control, zmq.POLLIN | (zmq.POLLOUT if unsent else 0))
        events = [] if self._follower.asking else [(self._sub, int(zmq.POLLIN))]
        return [(self._monitor, int(zmq.POLLIN)), control, *events]


def request(
    control_endpoint: str,
    request: str,
    timeout_s: float = 2.0,
    *,
    context: zmq.Context[Any] | None = None,
    **fields: Any,
) -> Any:
    """Ask a running daemon.

    Parameters
    ----------
    control_endpoint : str
    request : str
        ``snapshot``, ``replay``, ``status``, ``mute``, ``unmute`` or ``reload``.
    timeout_s : float
        Longest wait for the answer, in seconds.
    **fields
        ``source``, ``topic``, ``session``, ``from_seq``, ``to_seq``, where the request takes them.

    Returns
    -------
    object
        The result: for ``snapshot`` and ``replay`` a list of events as dictionaries, at most 500.

    Raises
    ------
    ConfigError
        If the endpoint is malformed.
    TransportError
        If no daemon answers in time, or the daemon refuses.
    """
    wire = Wire(context)
    try:
        dealer = wire.socket(zmq.DEALER, {})
        wire.connect(dealer, control_endpoint)
        dealer.send(_encode(Request(request=request, id=1, **fields)))
        if not dealer.poll(milliseconds(timeout_s)):
            raise TransportError(
                f"no serstream daemon answers at {control_endpoint}; start one with `serstream run`, "
                "or name its control endpoint with --control"
            )
        answer = msgspec.json.decode(dealer.recv_multipart()[-1], type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportError(
            f"what answers at {control_endpoint} is no serstream daemon; name its control endpoint"
        ) from error
    finally:
        wire.close()
    if not answer.ok:
        raise TransportError(f"the daemon at {control_endpoint} refused {request!r}: {answer.error}")
    return msgspec.json.decode(answer.result)


class _Identified(msgspec.Struct):
    id: int | str | None = None


_encode = msgspec.json.encode


def _replayed(bodies: Collection[bytes]) -> list[AnyEvent]:
    return [msgspec.structs.replace(decode_json(body), replayed=True) for body in bodies]


def _refuse(request: Request) -> Any:
    raise TransportError(f"request {request.request!r} is unknown; this daemon knows snapshot and replay")


def _known(types: Collection[str] | None) -> Collection[str]:
    if types is None:
        return TYPES
    wanted = (types,) if isinstance(types, str) else tuple(types)
    if not wanted or set(wanted) - set(TYPES):
        raise ConfigError(f"event types are {', '.join(wanted) or 'none'}; choose from {', '.join(TYPES)}")
    return wanted


def _subscriptions(source: str | None, types: Collection[str], latest: bool) -> list[str]:
    """Return full topics, ending in the space, where they are known; prefixes otherwise."""
    if source is not None and not SOURCE_ID.fullmatch(source):
        raise ConfigError(f"source is {source!r}; an id is 1 to 32 of the characters a-z, 0-9, _ and -")
    if latest and (source is None or len(types) != 1):
        raise ConfigError("latest keeps the newest event of one topic; name one source and one type with it")
    if source is None:
        return [TOPIC_PREFIX]
    return [f"{TOPIC_PREFIX}{source}.{t} " for t in types]
