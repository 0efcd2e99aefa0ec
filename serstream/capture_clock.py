"""When a sample was captured, from callbacks that are late by chance, and how far a device's rate is off. Pure."""

from __future__ import annotations

from collections import deque

import numpy as np

RELAXATION = 200e-6
"""Seconds per second by which the envelope of the capture time may rise over the drift that was measured."""
WINDOW_S = 30.0
"""The least late callback of so long stands for it."""
WINDOWS = (3, 20)
"""The drift is measured over so many windows at least, and at most."""
LATE_S, LATE_FOR_S = 0.25, 3.0
"""Where every callback is so late for so long, the samples are not late, they are lost."""


class CaptureClock:
    """The monotonic time of sample 0: running lower envelope of (callback time minus samples over rate).

    A callback is never early, so the lowest is the truest. A device that is slower than its rate says lets the lowest
    rise, and one that is faster lets it fall: that is measured over minutes, robustly, and the envelope goes with it.
    ``RELAXATION`` is for what is not measured yet.

    Attributes
    ----------
    origin_ns : int or None
        Monotonic time of sample 0, as the last callback tells: later samples are at it plus samples over rate.
    drift_ppm : float or None
        How much faster the device's clock is than the system's, in millionths; None for the first minute and a half.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._last_ns = 0
        self._late_ns: tuple[int, int] | None = None
        self._lows: deque[tuple[int, int]] = deque(maxlen=WINDOWS[1])
        self._window: tuple[int, int, int] | None = None
        self.origin_ns: int | None = None
        self.drift_ppm: float | None = None

    def update(self, now_ns: int, n_samples: int) -> int:
        """Take the time of a callback and the samples so far; return the time of sample 0 in ns."""
        seen = self._seen(now_ns, n_samples)
        self._measure(now_ns, seen)
        self.origin_ns = seen if self.origin_ns is None else min(seen, self._expected(now_ns))
        self._last_ns = now_ns
        return self.origin_ns

    def lost(self, now_ns: int, n_samples: int) -> float:
        """Return the seconds lost if this callback is on time; begin a new envelope."""
        if self.origin_ns is None:
            return 0.0
        lost_ns = self._seen(now_ns, n_samples) - self._expected(now_ns)
        self._begin_anew()
        self.update(now_ns, n_samples)
        return max(0.0, lost_ns / 1e9)

    def lost_unannounced(self, now_ns: int, n_samples: int) -> float:
        """Return the seconds that the device must have lost without a word; if any, begin a new envelope."""
        late_ns = 0 if self.origin_ns is None else self._seen(now_ns, n_samples) - self._expected(now_ns)
        if late_ns <= LATE_S * 1e9:
            self._late_ns = None
            return 0.0
        since_ns, least_ns = self._late_ns or (now_ns, late_ns)
        self._late_ns = since_ns, min(least_ns, late_ns)
        if now_ns - since_ns < LATE_FOR_S * 1e9:
            return 0.0
        least_ns = self._late_ns[1]
        self._begin_anew()
        self.update(now_ns - late_ns + least_ns, n_samples)
        return least_ns / 1e9

    def _begin_anew(self) -> None:
        self.origin_ns = self._window = self._late_ns = None
        self._lows.clear()

    def _seen(self, now_ns: int, n_samples: int) -> int:
        return now_ns - n_samples * 1_000_000_000 // self._rate

    def _expected(self, now_ns: int) -> int:
        """Return as what the origin is seen at most if a callback at this time is not late."""
        assert self.origin_ns is not None
        return self.origin_ns + int((now_ns - self._last_ns) * (RELAXATION - (self.drift_ppm or 0.0) / 1e6))

    def _measure(self, now_ns: int, seen: int) -> None:
        """Keep the least late callback of each window, and measure the drift when one is full."""
        begin_ns, low_ns, low = self._window or (now_ns, now_ns, seen)
        if now_ns - begin_ns >= WINDOW_S * 1e9:
            self._lows.append((low_ns, low))
            if len(self._lows) >= WINDOWS[0]:
                self.drift_ppm = -1e6 * self._slope()
            begin_ns, low_ns, low = now_ns, now_ns, seen
        self._window = (begin_ns, now_ns, seen) if seen <= low else (begin_ns, low_ns, low)

    def _slope(self) -> float:
        """Return the median of the slopes between windows that are far from each other (after Theil and Sen)."""
        first_ns, first = self._lows[0]
        at, origin = np.array([(low_ns - first_ns, low - first) for low_ns, low in self._lows], np.float64).T
        early, late = np.triu_indices(len(self._lows), len(self._lows) // 2)
        return float(np.median((origin[late] - origin[early]) / (at[late] - at[early])))
