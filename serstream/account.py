"""What is known of a stream that another process hears, from its events alone: enough to go on in its place. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from serstream.config import SAMPLE_RATE, SourceConfig
from serstream.events import AnyEvent, Cause, Emotion, Gap, Health, Speech
from serstream.pulled import Resume
from serstream.stream import LIVE, rfc3339

_COUNTERS: dict[Cause, str] = {"input_overflow": "input_overflows", "ring_overrun": "ring_overruns"}
"""The counters of causes that have another name."""


class Account:
    """Keeps account of one stream. Times without a name of their own are ``time.monotonic()``.

    Parameters
    ----------
    source_id, session : str
    config : SourceConfig
    now_s : float
    wall_s : float
        The same moment in seconds since 1970.

    Attributes
    ----------
    health : Health
        The last, or what stands in for it while nobody hears the stream.
    """

    def __init__(self, source_id: str, session: str, config: SourceConfig, *, now_s: float, wall_s: float) -> None:
        self._ids: dict[str, Any] = {"source": source_id, "session": session}
        self._live = isinstance(config, LIVE)
        self._sample, self._emotions = 0, 0
        self._captured_s, self._time = now_s, rfc3339(wall_s)
        self._lost: Counter[Cause] = Counter()
        self._emotion: Emotion | None = None
        self._speech: Speech | None = None
        self._gap: Gap | None = None
        self.health = self._stand_in({})

    def push(self, event: AnyEvent, captured_s: float) -> None:
        """Note an event of the stream, and when the sample that it speaks of was captured."""
        if event.sample >= self._sample:
            self._sample, self._captured_s, self._time = event.sample, captured_s, event.time
        match event:
            case Emotion():
                self._emotions = event.id
                self._emotion = None if event.phase == "offset" else event
            case Speech():
                self._speech = None if event.phase == "end" else event
            case Gap():
                self._gap = None if event.phase == "end" else event
                self._lost[event.cause] += event.lost_samples if event.phase == "end" else 0
            case Health():
                self.health = event

    def interrupt(self, *, now_s: float, wall_s: float) -> list[AnyEvent]:
        """Return what ends because the process has died, and the start of that gap; nothing if it is open already."""
        events: list[AnyEvent] = []
        if self._gap is None or self._gap.cause != "worker_restart":
            events += [*self._closing(), *self._end_gap(now_s, wall_s), self._gap_event("start", "worker_restart", 0)]
        for event in events:
            self.push(event, self._captured_s)
        self.health = self._stand_in(self._counters())
        return events

    def age_s(self, now_s: float) -> float:
        """Return how long ago the newest sample was captured; 0 for what is not live."""
        return max(0.0, now_s - self._captured_s) if self._live else 0.0

    def resume(self, slept_s: float) -> Resume:
        """Return where another goes on; ``slept_s`` as :func:`serstream.stream.slept_s` says now."""
        return Resume(self._sample, self._captured_s, self._counters(), self._emotions, slept_s)

    def _now(self) -> dict[str, Any]:
        return {"sample": self._sample, "stream_s": round(self._sample / SAMPLE_RATE, 6), "time": self._time}

    def _closing(self) -> list[AnyEvent]:
        now, events = self._now(), list[AnyEvent]()
        if self._emotion is not None:
            events.append(msgspec.structs.replace(self._emotion, **now, phase="offset", end_s=now["stream_s"]))
        if self._speech is not None:
            events.append(msgspec.structs.replace(self._speech, **now, phase="end", end_s=now["stream_s"]))
        return events

    def _end_gap(self, now_s: float, wall_s: float) -> list[AnyEvent]:
        if self._gap is None:
            return []
        lost = round(self.age_s(now_s) * SAMPLE_RATE)
        if self._live:
            self._sample, self._captured_s, self._time = self._sample + lost, now_s, rfc3339(wall_s)
        return [self._gap_event("end", self._gap.cause, lost)]

    def _gap_event(self, phase: Any, cause: Cause, lost: int) -> Gap:
        return Gap(**self._ids, **self._now(), phase=phase, cause=cause, lost_samples=lost, estimated=self._live)

    def _counters(self) -> dict[str, int]:
        """Return what was counted, so that every index up to here is either consumed or lost."""
        lost = {_COUNTERS.get(cause, cause): n for cause, n in self._lost.items() if cause != "non_finite"}
        counters = self.health.counters | lost
        counters["consumed"] = self._sample - sum(lost.values())
        counters["captured"] = counters["consumed"] + counters.get("ring_overruns", 0)
        counters["unread"] = 0
        return counters

    def _stand_in(self, counters: dict[str, int]) -> Health:
        """Return the health of a stream that nobody hears, not yet or not any more."""
        return Health(
            **self._ids,
            **self._now(),
            status="starting",
            degraded=self._gap is not None,
            counters=counters,
            rtf=0.0,
            latency_p50_s=0.0,
            latency_p99_s=0.0,
            topics={},
        )
