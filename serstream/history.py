"""What was said and what was heard: the memory of each end of the wire, without socket, thread or clock."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count, islice
from math import inf
from typing import Annotated, Literal, NamedTuple

import msgspec

from serstream.errors import EventError
from serstream.events import SCHEMA, TOPIC_PREFIX, UNREADABLE, AnyEvent, Health, decode_json

PAGE_EVENTS = 500
"""Most events in one answer."""

REFILLED = frozenset({"emotion", "speech", "gap"})
"""Types whose holes a subscriber fills from the daemon's memory."""

SILENCE_S = 5.0
"""After a request without an answer, the control endpoint is left alone for this long."""

Sequence = Annotated[int, msgspec.Meta(ge=1)]


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request to the control endpoint.

    ``replay`` needs ``topic``, or ``source`` for all its topics in alphabetical order; with both, the page
    begins at ``from_seq`` of ``topic`` and goes on through the later topics of ``source``, which is how the
    next page is asked for. ``session`` defaults to the current one.
    """

    request: str
    id: int | str | None = None
    source: str | None = None
    topic: str | None = None
    session: str | None = None
    from_seq: Sequence = 1
    to_seq: Sequence | None = None
    schema: Literal["serstream/1"] = SCHEMA

    def names(self, topic: str) -> bool:
        """Whether ``replay`` asks for events of a topic."""
        if self.source is None:
            return topic == self.topic
        return _source(topic) == self.source and topic >= (self.topic or "")

    def covers(self, topic: str, seq: int) -> bool:
        """Whether ``replay`` asks for an event."""
        return self.names(topic) and seq in self.span(topic)

    def span(self, topic: str) -> range:
        """Return the numbers that ``replay`` asks for of a topic that it names."""
        first = self.from_seq if self.topic in (None, topic) else 1
        return range(first, (self.to_seq or sys.maxsize) + 1)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the control endpoint: ``result``, or when not ``ok`` a sentence in ``error``."""

    id: int | str | None = None
    ok: bool
    more: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""

    def events(self) -> Iterator[AnyEvent]:
        """Yield the events of a page, without what this version cannot read."""
        with suppress(*UNREADABLE):
            for body in msgspec.json.decode(self.result, type=list[msgspec.Raw] | None) or ():
                with suppress(EventError):
                    yield decode_json(bytes(body))


class Lost(msgspec.Struct, frozen=True):
    """Events ``from_seq`` to ``to_seq`` (inclusive) of a topic and session that cannot be had any more."""

    topic: str
    session: str
    from_seq: int
    to_seq: int

    @property
    def n_events(self) -> int:
        return self.to_seq - self.from_seq + 1


class _Kept(msgspec.Struct, frozen=True, gc=False):  # a hundred thousand are kept, and none of them ends a cycle
    at_s: float
    seq: int
    body: bytes


class History:
    """The daemon's memory: the last event of each topic, and the events of the last ``replay_s`` seconds.

    At most ``replay_mb`` megabytes (10^6 bytes) of encoded events are kept for replay; posteriors are given
    up first, then the oldest of all. Of ``health`` only the last event is kept. The caller holds a lock.
    """

    def __init__(self, replay_s: float, replay_mb: float) -> None:
        self._replay_s = replay_s
        self._limit = replay_mb * 1e6
        self._size = 0
        self._last: dict[str, _Kept] = {}
        self._kept: dict[str, deque[_Kept]] = {}
        # topics in the order of what is kept of them: of posteriors, and of all else
        self._orders: tuple[deque[str], deque[str]] = (deque(), deque())

    def add(self, event: AnyEvent, body: bytes, now_s: float) -> None:
        """Remember an event and its JSON at a monotonic time in seconds; amortised constant time."""
        topic = event.topic
        self._last[topic] = kept = _Kept(now_s, event.seq, body)
        if event.type != "health":
            self._kept.setdefault(topic, deque()).append(kept)
            self._orders[event.type != "posterior"].append(topic)
            self._size += len(body)
        self._trim(now_s)

    def snapshot(self, source: str | None) -> list[bytes]:
        """Return the last event of each topic, of one source or of all, in the order of publication."""
        last = [kept for topic, kept in self._last.items() if source is None or _source(topic) == source]
        return [kept.body for kept in sorted(last, key=lambda kept: kept.at_s)]

    def page(self, request: Request) -> tuple[list[bytes], bool]:
        """Return up to 500 events that a ``replay`` request asks for, and whether there are more."""
        spans = [(topic, request.span(topic)) for topic in sorted(filter(request.names, self._kept))]
        stretches = (kept.body for topic, span in spans for kept in self._kept[topic] if kept.seq in span)
        page = list(islice(stretches, PAGE_EVENTS + 1))
        return page[:PAGE_EVENTS], len(page) > PAGE_EVENTS

    def _trim(self, now_s: float) -> None:
        for order in self._orders:
            while order and now_s - self._kept[order[0]][0].at_s > self._replay_s:
                self._drop(order)
        while self._size > self._limit:
            self._drop(self._orders[0] or self._orders[1])

    def _drop(self, order: deque[str]) -> None:
        self._size -= len(self._kept[order.popleft()].popleft().body)


class _Hole(NamedTuple):
    topic: str
    session: str
    first: int
    last: int

    def replay(self) -> Request:
        topic, session, first, last = self
        return Request(request="replay", topic=topic, session=session, from_seq=first, to_seq=last)


class Follower:
    """What a subscriber has heard: drops doubles, fills holes in order, says what is lost.

    Time (monotonic seconds), events and answers go in; items come out of ``ready``, and ``asking`` is the
    request that awaits an answer. While it does, events wait in the socket; what waits there when the answer
    to a snapshot arrives is heard before it.

    The first snapshot is the starting point: it yields the last event of each topic, or nothing where an
    event as old was heard live, so a late joiner is not flooded. From then on ``seq`` has no holes: a topic
    or session that appears later begins at 1, and a snapshot after a reconnection or the topics in a
    ``health`` event reveal what was missed. Holes of emotion, speech and gap are asked for; what cannot be
    had in ``timeout_s``, and every hole of posterior and health, becomes :class:`Lost`. Until a snapshot is
    answered, a topic starts at its first live event.
    """

    def __init__(self, source: str | None, types: Collection[str], timeout_s: float) -> None:
        self.ready: deque[AnyEvent | Lost] = deque()
        self.asking: Request | None = None
        self.lost_events = 0
        self._source = source
        self._types = types
        self._timeout_s = timeout_s
        self._ids = count(1)
        self._pending: deque[AnyEvent] = deque()
        self._seen: dict[str, tuple[str, int]] = {}
        self._unchecked: set[str] = set()
        self._joined = False
        self._limit_s = self._snapshot_s = inf
        self._silent_until_s = -inf

    @property
    def due_s(self) -> float:
        """When :meth:`tick` has something to do, in monotonic seconds; infinity for never."""
        return self._limit_s if self.asking else self._snapshot_s

    @property
    def is_starting(self) -> bool:
        """Whether it is a snapshot that is awaited."""
        return self.asking is not None and self.asking.request == "snapshot"

    def wants(self, topic: str) -> bool:
        """Whether events of this topic are asked for and known to this version."""
        source, _, kind = topic.removeprefix(TOPIC_PREFIX).rpartition(".")
        return kind in self._types and self._source in (None, source)

    def join(self, now_s: float) -> None:
        """Say that a daemon was (again) connected to."""
        self._snapshot_s = now_s

    def tick(self, now_s: float) -> None:
        """Give up what has waited too long, and take a snapshot that is due."""
        if self.asking and now_s >= self._limit_s:
            self._give_up(self.asking, now_s)
        if not self.asking and now_s >= self._snapshot_s:
            self._ask(Request(request="snapshot", source=self._source), now_s)

    def hear(self, event: AnyEvent, now_s: float) -> None:
        """Take an event of the live stream."""
        if self.wants(event.topic):
            self._pending.append(event)
            self._advance(now_s)

    def answer(self, answer: Answer, now_s: float) -> None:
        """Take an answer; one that is not awaited (any more) is dropped."""
        asked = self.asking
        if asked is None or answer.id != asked.id:
            return
        self.asking = None
        if asked.request == "snapshot":
            self._start(answer)
        else:
            self._fill(asked, answer, now_s)
        self._advance(now_s)

    def _ask(self, request: Request, now_s: float) -> None:
        self.asking = msgspec.structs.replace(request, id=next(self._ids))
        self._limit_s = now_s + self._timeout_s

    def _give_up(self, asked: Request, now_s: float) -> None:
        self._silent_until_s = now_s + SILENCE_S
        self.answer(Answer(id=asked.id, ok=False), now_s)
        if asked.request == "snapshot":
            self._snapshot_s = self._silent_until_s

    def _start(self, answer: Answer) -> None:
        """Yield the starting points; later snapshots only reveal holes, and live events tell of the rest."""
        self._snapshot_s = inf
        heard = {(event.topic, event.session): event.seq for event in reversed(self._pending)}
        missed = []
        for event in filter(lambda e: self.wants(e.topic), answer.events()):
            is_new = not self._joined and event.topic not in self._seen
            first_heard = heard.get((event.topic, event.session), event.seq + 1)
            if first_heard <= event.seq:
                if is_new:
                    self._seen[event.topic] = (event.session, first_heard - 1)
            elif is_new:
                self._yield(event)
                self._unchecked.add(event.topic)
            elif event.type in REFILLED:
                missed.append(event)
        self._pending.extendleft(reversed(missed))
        self._joined |= answer.ok

    def _fill(self, asked: Request, answer: Answer, now_s: float) -> None:
        hole = _Hole(str(asked.topic), str(asked.session), asked.from_seq, asked.to_seq or 0)
        for event in answer.events():
            if (event.topic, event.session) == hole[:2] and hole.first <= event.seq <= hole.last:
                self._lose(hole._replace(last=event.seq - 1))
                self._yield(event)
                hole = hole._replace(first=event.seq + 1)
        if answer.more and asked.from_seq < hole.first <= hole.last:
            self._ask(msgspec.structs.replace(asked, from_seq=hole.first), now_s)
        else:
            self._lose(hole)

    def _advance(self, now_s: float) -> None:
        while self._pending and not self.asking:
            event = self._pending[0]
            hole = next(self._holes(event), None)
            if hole is None:
                self._pending.popleft()
                if event.seq >= self._next_seq(event.topic, event.session, event.seq):
                    self._yield(event)
            elif _type(hole.topic) in REFILLED and now_s >= self._silent_until_s:
                self._ask(hole.replay(), now_s)
            else:
                self._lose(hole)

    def _holes(self, event: AnyEvent) -> Iterator[_Hole]:
        """Yield the holes that an event reveals: before it, and in the topics that a health event counts."""
        newest = {event.topic: event.seq - 1}
        if isinstance(event, Health):
            newest |= {t: seq for t, seq in event.topics.items() if _type(t) in REFILLED and self.wants(t)}
        for topic, last in newest.items():
            first = self._next_seq(topic, event.session, last + 1)
            if first <= last:
                yield _Hole(topic, event.session, first, last)

    def _next_seq(self, topic: str, session: str, offered: int) -> int:
        """Return the next ``seq`` of a topic; where holes do not count yet, the one that is offered."""
        if topic not in self._seen:
            return 1 if self._joined else offered
        seen_session, seq = self._seen[topic]
        if seen_session != session:
            return 1
        is_checked = topic not in self._unchecked or _type(topic) in REFILLED
        return seq + 1 if is_checked else max(seq + 1, offered)

    def _yield(self, event: AnyEvent) -> None:
        self.ready.append(event)
        self._seen[event.topic] = (event.session, event.seq)
        self._unchecked.discard(event.topic)

    def _lose(self, hole: _Hole) -> None:
        if hole.first <= hole.last:
            self.ready.append(Lost(hole.topic, hole.session, hole.first, hole.last))
            self._seen[hole.topic] = (hole.session, hole.last)
            self.lost_events += hole.last - hole.first + 1


def _source(topic: str) -> str:
    return topic.removeprefix(TOPIC_PREFIX).rpartition(".")[0]


def _type(topic: str) -> str:
    return topic.rpartition(".")[2]
