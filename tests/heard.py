"""An outlet that keeps what it is given, in the place of a publisher."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from serstream.events import AnyEvent

LIMIT_S = 60.0


class Heard:
    """Keeps every event as it was stamped."""

    session = "6f1c"

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.came = threading.Condition()

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        with self.came:
            self.events.append(msgspec.structs.replace(event, time=time, latency_s=latency_s))
            self.came.notify_all()
        return event

    def until(self, wanted: Callable[[AnyEvent], bool], behind: int = 0) -> int:
        """Wait until an event behind so many is wanted; return how many there were up to and with it."""

        def found() -> int:
            return next((i + 1 for i, e in enumerate(self.events[behind:], behind) if wanted(e)), 0)

        with self.came:
            assert self.came.wait_for(found, LIMIT_S), f"the last were {self.events[-3:]}"
            return found()

    def of(self, source: str, *types: str) -> list[AnyEvent]:
        """Return the events of a source, of these types or of all."""
        return [e for e in list(self.events) if e.source == source and (not types or e.type in types)]


def bare(events: list[AnyEvent]) -> list[AnyEvent]:
    """Return events without what depends on when they were published."""
    return [msgspec.structs.replace(e, time="", latency_s=0.0) for e in events]
