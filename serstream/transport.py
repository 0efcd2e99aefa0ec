"""The client's end of the wire: :class:`Subscriber` and :func:`request`.

Events travel as single-frame PUB messages, requests as single JSON frames to a ROUTER socket.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Self

import msgspec
import zmq

from serstream.addresses import CONTROL_ENDPOINT, EVENTS_ENDPOINT
from serstream.endpoints import QUEUED_EVENTS, Wire, milliseconds, poll_async, take
from serstream.errors import ConfigError, TransportError
from serstream.events import EVENT_TYPES, SOURCE_ID, TOPIC_PREFIX, UNREADABLE, AnyEvent, decode
from serstream.gate import LISTENS
from serstream.handshakes import Handshakes
from serstream.history import Answer, Follower, Lost, Request
from serstream.keys import ClientKeys, client_keys

__all__ = ["TYPES", "Lost", "Subscriber", "request"]

TYPES = tuple(str(t.__struct_config__.tag) for t in EVENT_TYPES)


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
    key, server_key : str or Path, optional
        For a daemon that has ``transport.curve``: the name or path of one's own secret key, and that of the daemon's
        public key (``serstream``).
    context : zmq.Context, optional
        A shared context, for ``inproc``; its owner ends it.

    Attributes
    ----------
    lost_events : int
        Events in all :class:`Lost` items so far.

    Raises
    ------
    ConfigError
        If an endpoint is malformed, a key cannot be used, or source or types are not possible.
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
        key: str | Path | ClientKeys | None = None,
        server_key: str | Path | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        keys = client_keys(key, server_key)
        secure: dict[int, int | bytes] = {} if keys is None else keys.options()
        prefixes = _subscriptions(source, _known(types), latest)
        self._latest = latest
        self._follower = Follower(source, _known(types), control_timeout_s)
        self._sent: Request | None = None
        self._wire = Wire(context)
        try:
            self._sub = self._wire.socket(zmq.SUB, {zmq.RCVHWM: QUEUED_EVENTS, zmq.CONFLATE: int(latest)} | secure)
            self._handshakes = Handshakes(self._wire, self._sub, events, keys, "listen")
            for prefix in prefixes:
                self._sub.subscribe(prefix)
            self._control = self._wire.socket(zmq.DEALER, {zmq.IMMEDIATE: 1} | secure)
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
            If the daemon refuses the subscriber, or it is closed.
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
        if self._handshakes.take() and not self._latest:
            self._follower.join(now_s)
        if self._control.poll(0):
            if not (self._follower.is_starting and self._hear(now_s)):
                self._read_answer(now_s)
            return True
        self._follower.tick(now_s)
        return self._follower.asking is None and self._hear(now_s)

    def _read_answer(self, now_s: float) -> None:
        with suppress(*UNREADABLE):
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
                self._control.send(msgspec.json.encode(self._follower.asking), zmq.NOBLOCK)
                self._sent = self._follower.asking

    def _awaited(self) -> list[tuple[zmq.Socket[bytes], int]]:
        """Return the sockets, and what on them can lead to the next item."""
        unsent = self._follower.asking not in (None, self._sent)
        control = (self._control, zmq.POLLIN | (zmq.POLLOUT if unsent else 0))
        events = [] if self._follower.asking else [(self._sub, int(zmq.POLLIN))]
        return [(self._handshakes.monitor, int(zmq.POLLIN)), control, *events]


def request(
    control_endpoint: str,
    request: str,
    timeout_s: float = 2.0,
    *,
    key: str | Path | ClientKeys | None = None,
    server_key: str | Path | None = None,
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
    key, server_key : str or Path, optional
        As those of :class:`Subscriber`.
    **fields
        ``source``, ``topic``, ``session``, ``from_seq``, ``to_seq``, where the request takes them.

    Returns
    -------
    object
        The result: for ``snapshot`` and ``replay`` a list of events as dictionaries, at most 500.

    Raises
    ------
    ConfigError
        If the endpoint is malformed, or a key cannot be used.
    TransportError
        If no daemon answers in time, or the daemon refuses.
    """
    keys = client_keys(key, server_key)
    wire = Wire(context)
    try:
        dealer = wire.socket(zmq.DEALER, {} if keys is None else keys.options())
        handshakes = Handshakes(wire, dealer, control_endpoint, keys, "listen" if request in LISTENS else "control")
        wire.connect(dealer, control_endpoint)
        dealer.send(msgspec.json.encode(Request(request=request, **fields)))
        end_s = monotonic() + timeout_s
        while not dealer.poll(0):
            handshakes.take()
            if (left_s := end_s - monotonic()) <= 0.0:
                handshakes.give_up()
                raise TransportError(
                    f"no serstream daemon answers at {control_endpoint}; start one with `serstream run`, "
                    "or name its control endpoint with --control"
                )
            zmq.zmq_poll([(dealer, zmq.POLLIN), (handshakes.monitor, zmq.POLLIN)], milliseconds(left_s))
        answer = msgspec.json.decode(dealer.recv_multipart()[-1], type=Answer)
    except UNREADABLE as error:
        raise TransportError(
            f"what answers at {control_endpoint} is no serstream daemon; name its control endpoint"
        ) from error
    finally:
        wire.close()
    if not answer.ok:
        raise TransportError(f"the daemon at {control_endpoint} refused {request!r}: {answer.error}")
    return msgspec.json.decode(answer.result)


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
