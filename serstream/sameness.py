"""Whether a signal is what no room sounds like: digital silence, or the same again and again. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the capture process loads this module and needs no msgspec
    from serstream.events import Fault

PERIOD_S = 2.0
"""What repeats itself less often is not noticed; a sound card's memory is shorter."""
STEP_S = 0.5
LOOK_STEPS = 4
"""After so many steps at most it is looked whether something repeats itself, and from when on: before it is a fault."""
_LEAST = 64
"""So many samples that were heard before make a repetition likely enough to be watched."""


class Sameness:
    """Counts for how long a signal has been zero, or has repeated itself to the bit, half a second at a time.

    To be shown the signal as the device gives it: a resampler's rounding differs from one repetition to the next.
    Called from one thread.

    Parameters
    ----------
    rate : int
        Samples a second.
    limit_s : float or None
        Seconds of it that are a fault, from ``STEP_S`` on; what ends within ``STEP_S`` of them may pass. None is never.
    """

    def __init__(self, rate: int, limit_s: float | None) -> None:
        self._limit = math.inf if limit_s is None else round(limit_s * rate)
        self._zeros = self._repeated = self._period = 0
        self._step = max(1, round(STEP_S * rate))
        self._memory = int(PERIOD_S * rate)
        look_steps = int(min(LOOK_STEPS, max(1, self._limit // self._step)))
        self._past: NDArray[np.float32] = np.empty(self._memory + look_steps * self._step, np.float32)
        self._begin = self._end = self._memory

    @property
    def fault(self) -> Fault | None:
        """``silence``, ``stuck``, or None for sound."""
        if max(self._zeros, self._repeated) < self._limit:
            return None
        return "silence" if self._zeros >= self._limit else "stuck"

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, shape (n_samples,), all finite; any cutting of the signal counts the same."""
        while samples.size and self._limit < math.inf:
            n = min(samples.size, self._step - (self._end - self._memory) % self._step)
            self._past[self._end : self._end + n] = samples[:n]
            self._end += n
            samples = samples[n:]
            if (self._end - self._memory) % self._step == 0:
                self._take()

    def _take(self) -> None:
        """Count a whole step."""
        heard = self._past[self._begin : self._end]
        self._count_zeros(heard[-self._step :])
        if self._period:
            self._go_on(heard, self._step)
        if self._end < self._past.size:
            return
        if not self._period:
            self._look_back(heard)
        n = self._end - self._memory
        self._begin, self._end = max(0, self._begin - n), self._memory
        self._past[self._begin : self._end] = self._past[self._begin + n :]

    def _count_zeros(self, step: NDArray[np.float32]) -> None:
        sounding = (step.size - 1,) if step[-1] else np.flatnonzero(step)
        self._zeros = step.size - 1 - int(sounding[-1]) if len(sounding) else self._zeros + step.size

    def _go_on(self, heard: NDArray[np.float32], n_samples: int) -> None:
        """See whether the newest samples repeat what was one period before them."""
        before = heard.size - n_samples - self._period
        if np.array_equal(heard[-n_samples:], heard[before : before + n_samples]):
            self._repeated += n_samples
        else:
            self._repeated = self._period = 0

    def _look_back(self, heard: NDArray[np.float32]) -> None:
        """Find where the newest samples were heard before, as late as possible."""
        newest = heard[-_LEAST:]
        first = max(heard.size - self._memory, 0) + _LEAST - 1
        ends = np.flatnonzero(heard[first:-1] == newest[-1]) + first
        for back in range(1, newest.size):
            if not ends.size:
                return
            ends = ends[heard[ends - back] == newest[-1 - back]]
        if ends.size and newest.size == _LEAST:
            self._period = heard.size - 1 - int(ends[-1])
            self._repeated = self._count_back(heard)

    def _count_back(self, heard: NDArray[np.float32]) -> int:
        """Return how many of the newest samples repeat what was one period before them."""
        differing = np.flatnonzero(heard[self._period :] != heard[: -self._period])
        return heard.size - self._period - 1 - int(differing[-1]) if differing.size else heard.size - self._period
