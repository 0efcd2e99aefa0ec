"""Any rate and number of channels to one channel at another rate, statefully."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.sameness import Sameness

LOUDEST = np.float32(1e10)
"""Beyond it nothing is sound, though integers that nobody scaled may be; far beyond it filters overflow."""


class Resampler:
    """Mix down to mono, replace what is not finite or too loud by 0, and resample; equal for any cutting of the signal.

    Called from one thread.

    Parameters
    ----------
    rate_in, rate_out : int
        Samples a second.
    watch : Sameness, optional
        Is shown what comes in, mixed down.

    Attributes
    ----------
    non_finite : int
        Samples replaced so far, counted at the incoming rate after mixing down.
    """

    def __init__(self, rate_in: int, rate_out: int, watch: Sameness | None = None) -> None:
        self.non_finite = 0
        self._watch = watch
        self._stream: Any = None
        if rate_in != rate_out:
            import soxr

            self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="HQ")

    def push(self, block: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """Take samples of shape (n_samples, channels), return mono of shape (m,), at ``last`` all of it."""
        mono = self._clean(block)
        if self._watch is not None:
            self._watch.push(mono)
        if self._stream is None:
            return mono
        resampled: NDArray[np.float32] = self._stream.resample_chunk(mono, last=last)
        return resampled

    def _clean(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        # copies in either case: what came in is overwritten by the next block
        if block.shape[1] == 1:
            mono = block[:, 0].copy()
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                mono = block.mean(axis=1, dtype=np.float32)
        good = is_sound(mono)
        if not good.all():
            self.non_finite += int(mono.size - np.count_nonzero(good))
            mono[~good] = 0.0
        return mono


def is_sound(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which samples are finite and at most ``LOUDEST``."""
    return np.abs(samples) <= LOUDEST
