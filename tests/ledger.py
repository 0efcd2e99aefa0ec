"""What a source told of, event by event, and whether that accounts for every sample."""

from __future__ import annotations

from collections import Counter

from faulty import NAMES

from serstream.events import AnyEvent, Gap, Health

NOT_MOVED = "non_finite"
"""Its samples are replaced, and the index does not pass over them."""
LOSSES = ("input_overflows", "ring_overruns", "device_lost", "stalled", "muted", "network", "suspended", NOT_MOVED)


class Ledger:
    """Keeps no event: it holds each against those before, and the last health against the sums."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.health: Health | None = None
        self._open: Gap | None = None
        self._sample = 0

    def take(self, event: AnyEvent) -> None:
        """Hold that the index never goes back, and that every gap ends before the next, as far on as it says."""
        self.events[event.type] += 1
        if isinstance(event, Health):  # from another thread, which knows nothing of what is about to be told
            self.health = event
            return
        assert event.sample >= self._sample, f"{event} lies before sample {self._sample}"
        self._sample = event.sample
        if isinstance(event, Gap):
            self._take_gap(event)

    def _take_gap(self, gap: Gap) -> None:
        start, self._open = self._open, gap if gap.phase == "start" else None
        if gap.phase == "start":
            assert start is None, f"{gap} begins within {start}"
            return
        assert start is not None, f"{gap} ends what did not begin"
        assert start.cause == gap.cause, f"{gap} ends {start}"
        moved = 0 if gap.cause == NOT_MOVED else gap.lost_samples
        assert gap.sample - start.sample == moved, f"from {start} to {gap} are not the samples that it says"
        self.told[NAMES.get(gap.cause, gap.cause)] += gap.lost_samples

    def settle(self) -> None:
        """Hold, at the end, that all samples were consumed, or counted and told of."""
        assert self._open is None, f"{self._open} never ended"
        assert self.health is not None
        counters = self.health.counters
        counted = Counter({name: n for name in LOSSES if (n := counters.get(name, 0))})
        assert +self.told == counted, f"gaps are {+self.told}, and counted are {counted}"
        left = counters["captured"] - counters["consumed"] - counters["ring_overruns"] - counters["unread"]
        assert left == 0, f"of {counters['captured']} samples that were captured, {left} are missing"
        moved = self.told.total() - self.told[NOT_MOVED]
        assert self.health.sample == counters["consumed"] + moved, "every index was heard or lies in a gap"
