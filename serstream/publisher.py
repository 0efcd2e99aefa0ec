"""The daemon's end of the wire: :class:`Publisher` sends events and answers requests."""

from __future__ import annotations

import logging
import socket as sockets
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, Protocol

import msgspec
import zmq

from serstream.addresses import CONTROL_ENDPOINT, EVENTS_ENDPOINT
from serstream.allowance import Allowance
from serstream.endpoints import QUEUED_EVENTS, Wire
from serstream.errors import SerstreamError, TransportError, reason
from serstream.events import UNREADABLE, AnyEvent, Health, decode_json, encode
from serstream.gate import Gate
from serstream.history import PAGE_EVENTS, History, Request

MAX_REQUEST_BYTES = 65_536
MAX_SUBSCRIPTION_BYTES = 1024
QUEUED_ANSWERS = 100
"""Answers that wait for a client that does not read them before it loses some."""
REQUESTS_PER_S, REQUESTS_AT_ONCE = 100.0, 1000
"""What one client, a key or else a connection, may ask in the long run, and when it was quiet before."""
REFUSAL_S = 0.001
"""After a request too many the control thread rests: whoever asks too much, asks at the speed of refusals."""
CLOSE_LIMIT_S = 0.5

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
        Allow TCP addresses other than loopback without a gate.
    ipc_mode : {'owner', 'group'}
        Who may connect to ``ipc://`` paths.
    gate : Gate, optional
        Whom it lets in, all others stay out; it is closed after this.
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
        ipc_mode: str = "owner",
        gate: Gate | None = None,
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
        self._gate, self._allowance = gate, Allowance(REQUESTS_PER_S, REQUESTS_AT_ONCE)
        self._wire = Wire(context if gate is None else gate.context)
        limits: dict[int, int | bytes] = {zmq.MAXMSGSIZE: MAX_REQUEST_BYTES, zmq.SNDHWM: QUEUED_ANSWERS}
        try:
            self._router = self._socket(zmq.ROUTER, "control", limits)
            self._pub = self._socket(
                zmq.PUB, "events", {zmq.MAXMSGSIZE: MAX_SUBSCRIPTION_BYTES, zmq.SNDHWM: QUEUED_EVENTS}
            )
            access: dict[str, Any] = {"insecure": insecure or gate is not None, "ipc_mode": ipc_mode}
            self.control_endpoint = self._wire.bind(self._router, control, "transport.control", **access)
            self.events_endpoint = self._wire.bind(self._pub, events, "transport.events", **access)
        except BaseException:
            self._wire.close()
            raise
        self._stop, self._stopped = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="serstream-control", daemon=True)
        self._thread.start()
        if gate is not None:
            gate.guard("events", self.events_endpoint)

    def _socket(self, kind: int, endpoint: str, options: dict[int, int | bytes]) -> zmq.Socket[bytes]:
        return self._wire.socket(kind, options if self._gate is None else {**options, **self._gate.options(endpoint)})

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
                self._serve_one()
        self._router.close(linger=int(CLOSE_LIMIT_S * 1e3))

    def _serve_one(self) -> None:
        *envelope, body = self._router.recv_multipart(copy=False)
        user = None if self._gate is None else str(body.get("User-Id"))
        client = envelope[0].bytes if user is None else user
        in_time = self._allowance.take(client, monotonic())
        answer = self._answer(body.bytes, user) if in_time else _too_many(body.bytes)
        with suppress(zmq.ZMQError):  # the client has gone
            self._router.send_multipart([*envelope, answer], zmq.NOBLOCK)
        if not in_time:
            sleep(REFUSAL_S)

    def _answer(self, body: bytes, user: str | None) -> bytes:
        asked_id = None
        try:
            asked_id = msgspec.json.decode(body, type=_Identified).id
            request = msgspec.json.decode(body, type=Request)
            if self._gate is not None:
                self._gate.check_request(str(user), request.request)
            result, more = self._result(request)
            return _encode({"id": asked_id, "ok": True, "more": more, "result": result})
        except SerstreamError as error:
            sentence = str(error)
        except UNREADABLE as error:
            sentence = f'{body[:60]!r} is no request ({reason(error)}); send one object such as {{"request": "status"}}'
        except Exception as error:
            _log.exception("a request failed")
            sentence = f"the request failed in the daemon ({error!r}); its log says more"
        return _error(asked_id, sentence)

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
            raise TransportError(
                f"session {str(request.session)[:60]!r} is unknown; the current session is {self.session}"
            )
        if request.source is None and request.topic is None:
            raise TransportError("replay names neither a topic nor a source; name at least one of them")


def _error(asked_id: int | str | None, sentence: str) -> bytes:
    return _encode({"id": asked_id, "ok": False, "more": False, "error": sentence})


def _too_many(body: bytes) -> bytes:
    asked_id = None
    with suppress(*UNREADABLE):
        asked_id = msgspec.json.decode(body, type=_Identified).id
    return _error(
        asked_id, f"too many requests: a client may ask {REQUESTS_PER_S:g} times a second; wait a second and ask again"
    )


class _Identified(msgspec.Struct):
    id: int | str | None = None


_encode = msgspec.json.encode


def _replayed(bodies: Collection[bytes]) -> list[AnyEvent]:
    return [msgspec.structs.replace(decode_json(body), replayed=True) for body in bodies]


def _refuse(request: Request) -> Any:
    raise TransportError(f"request {request.request[:60]!r} is unknown; this daemon knows snapshot and replay")
