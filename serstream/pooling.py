"""Pooling between trunk and head: mean and deviation of the outputs, from integer sums that move with the segment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serstream.kernels import move_sums, pool, weigh

POOLING_EPSILON = 1e-5
"""Added to the variance under the square root, in squared units of the trunk's outputs, as in training."""


def pooling_weights(spoken: NDArray[np.bool_], n_evidence: int) -> NDArray[np.int64]:
    """Return how much each output of the trunk counts in pooling.

    An output is of as much use as there was speech in what it saw: at the beginning of an utterance, little.

    Parameters
    ----------
    spoken : ndarray of shape (n_evidence + n,)
        Which outputs are speech; the last ``n`` are those that are weighed.
    n_evidence : int
        Outputs, up to the one weighed, among which speech is counted.

    Returns
    -------
    weights : ndarray of shape (n,), int64
        The number of spoken outputs, 1 to ``n_evidence``; 0 for an output that is none.
    """
    weights = np.empty(spoken.size - n_evidence, np.int64)
    weigh(spoken, n_evidence, weights)
    return weights


class MovingStatistics:
    """Weighted mean and deviation of the last outputs: what a push brings is added, what it drives out taken away.

    The sums are of integers, so they equal those of the whole segment added up anew.

    Parameters
    ----------
    n_outputs : int
        Outputs of a segment.
    channels : int
        Values of an output.

    Attributes
    ----------
    n_spoken : int
        The number of outputs that weigh something.
    """

    def __init__(self, n_outputs: int, channels: int) -> None:
        self._outputs = np.zeros((n_outputs, channels), np.int8)
        self._weights = np.zeros(n_outputs, np.int64)
        self._total, self._squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self._oldest = self.n_spoken = self._weight = 0

    def push(self, outputs: NDArray[np.int8], weights: NDArray[np.int64]) -> None:
        """Take the next outputs (n, channels) of the trunk, with the weight of each (n,), in place of the oldest."""
        self._oldest, self.n_spoken, self._weight = move_sums(
            self._outputs, self._weights, self._oldest, outputs, weights, self._total, self._squares
        )

    def pooled(self, scale: tuple[float, int]) -> NDArray[np.float64]:
        """Return mean and deviation (2 channels,) of outputs of a scale and zero point; some must weigh something."""
        out = np.empty(2 * self._total.size)
        pool(self._total, self._squares, self._weight, *scale, POOLING_EPSILON, out)
        return out
