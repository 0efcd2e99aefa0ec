"""What a few seconds of samples say of the microphone that they came from; pure."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CLIPPED = 0.99
"""Resampling moves what was cut off a little below full scale."""
CLIPPED_SHARE = 1e-3
LOW_DBFS = -75.0
"""A quiet room is at -60 dBFS or above, with the gain of a microphone as it should be."""
STUCK = 1e-3
"""A value that stays lets the samples differ by less than this share of it, which resampling makes."""

Fault = Literal["silent", "stuck", "clipped", "low"]


def fault(samples: NDArray[np.float32]) -> Fault | None:
    """Return what is wrong with samples (n_samples,), at least one, of a microphone in a room; None for nothing."""
    if not samples.any():
        return "silent"
    if float(np.ptp(samples)) <= STUCK * abs(float(samples.mean())):
        return "stuck"
    if float(np.mean(np.abs(samples) >= CLIPPED)) > CLIPPED_SHARE:
        return "clipped"
    return "low" if level_dbfs(samples) < LOW_DBFS else None


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """Return the RMS level around the mean; -inf for a constant."""
    rms = float(samples.std(dtype=np.float64))
    return 20 * math.log10(rms) if rms else -math.inf
