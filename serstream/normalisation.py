"""Causal normalisation of the cepstral mean: a frame is measured against the speech that was heard before it.

Voice, microphone and room add nearly a constant to every cepstrum; taking away the mean of the stream's own speech
takes that constant away. The sums are integers, so the mean is the same however the stream is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serstream import kernels

UNITS = 4096
"""How many units of the integer sums make 1."""
LIMIT = 32_768.0
"""Cepstra beyond this, which finite samples never reach, count as this: no sum of a million can overflow."""


class CepstralMean:
    """The mean of the cepstra of speech, moved on by what is heard. Called from one thread only.

    It is (prior * prior_frames + sum of the speech frames so far) / (prior_frames + their number). When a move brings
    the number to ``history_frames`` or more, sum and number are halved: on an endless stream the memory weighs
    ``history_frames / 2`` to ``history_frames`` frames, and what is older counts half as much at every halving. The
    prior keeps its weight.

    Parameters
    ----------
    prior : array-like of shape (n_mfcc,)
        The mean before anything was heard.
    std : array-like of shape (n_mfcc,)
        What every difference from the mean is divided by; all above 0.
    prior_frames : float
        How many frames of speech the prior weighs; above 0.
    history_frames : int
        Even, 2 to 1,000,000.
    frozen : bool
        Whether the mean stays where it is, whatever is heard.
    """

    def __init__(
        self, prior: ArrayLike, std: ArrayLike, *, prior_frames: float, history_frames: int, frozen: bool = False
    ) -> None:
        self._prior = np.array(prior, np.float64) * prior_frames
        self._std = np.array(std, np.float32)
        self._prior_frames, self._history_frames = prior_frames, history_frames
        self._frozen = frozen
        self._sum = np.zeros(self._prior.size, np.int64)
        self._count = 0
        self._settle()

    def normalise(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return cepstra (n, n_mfcc) less the mean, divided by the deviation."""
        return (frames - self._mean) / self._std

    def move(self, frames: NDArray[np.float32], speech: NDArray[np.bool_]) -> None:
        """Move the mean on by finite cepstra (n, n_mfcc), where they are ``speech`` (n,)."""
        if not self._frozen and speech.any():
            self._count += kernels.add_up(frames, speech, LIMIT, UNITS, self._sum)
            self._settle()

    def remember(self, total: NDArray[np.float64], n_frames: int) -> None:
        """Count as heard ``n_frames`` frames of speech of which the sum (n_mfcc,) alone is known, frozen or not."""
        self._sum += np.rint(total * UNITS).astype(np.int64)
        self._count += n_frames
        self._settle()

    def _settle(self) -> None:
        while self._count >= self._history_frames:
            self._sum, self._count = self._sum // 2, self._count // 2
        weight = self._prior_frames + self._count
        self._mean = ((self._prior + self._sum / UNITS) / weight).astype(np.float32)


def in_units(frames: NDArray[Any]) -> NDArray[np.int64]:
    """Return cepstra in whole units, as they are added up."""
    units = np.rint(np.clip(frames, -LIMIT, LIMIT).astype(np.float64) * UNITS)
    return np.asarray(units, np.int64)
