"""Percentiles of what was measured within the last minute. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Latencies:
    """Latencies in seconds, in order of time and of size: to ask for a percentile of them costs nothing.

    Called by one thread at a time; with more of them its owner locks.

    Parameters
    ----------
    memory_s : float
        How long one counts.
    most : int
        The newest of them at most.
    """

    def __init__(self, memory_s: float, most: int) -> None:
        self._memory_s, self._most = memory_s, most
        self._by_time: deque[tuple[float, float]] = deque()
        self._by_size: list[float] = []

    def add(self, latency_s: float, now_s: float) -> None:
        """Take one at a monotonic time, in seconds, that does not go back."""
        self._by_time.append((now_s, latency_s))
        insort(self._by_size, latency_s)
        if len(self._by_time) > self._most:
            self._forget()
        self.pass_by(now_s)

    def pass_by(self, now_s: float) -> None:
        """Forget what no longer counts at a time."""
        while self._by_time and now_s - self._by_time[0][0] > self._memory_s:
            self._forget()

    def percentile(self, share: float) -> float:
        """Return the one at place ``int(share * n)`` in order of size, at most the last; 0 where there are none."""
        return self._by_size[min(len(self._by_size) - 1, int(share * len(self._by_size)))] if self._by_size else 0.0

    def _forget(self) -> None:
        _, latency_s = self._by_time.popleft()
        del self._by_size[bisect_left(self._by_size, latency_s)]
