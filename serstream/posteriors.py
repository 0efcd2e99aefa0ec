"""Probabilities of a step, and what many steps say together. Pure.

Vectors are lists: on the handful of numbers that they hold, Python's own arithmetic is quicker than NumPy's calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BELIEF_STEPS = 16
LEAST_POSTERIOR = 1e-12
LEAST_PROBABILITY = 1e-4
"""Of speech, or of none, in a step: no single one may decide for an utterance."""


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Return exp(x / temperature) over its sum, safe against overflow."""
    largest = max(logits)
    powers = [math.exp((x - largest) / temperature) for x in logits]
    total = sum(powers)
    return [p / total for p in powers]


class PosteriorMean:
    """Speech-weighted geometric mean of posteriors, proportional to exp(sum(w log p) / sum(w))."""

    def __init__(self) -> None:
        self._sums: list[float] = []
        self._weight = 0.0

    def add(self, posterior: Iterable[float], weight: float) -> None:
        """Add the posterior of a step, which weighs as much as there was speech in its segment."""
        if weight > 0.0:
            terms = [weight * math.log(max(p, LEAST_POSTERIOR)) for p in posterior]
            self._sums = [s + t for s, t in zip(self._sums, terms, strict=True)] if self._sums else terms
            self._weight += weight

    def result(self) -> list[float] | None:
        """Return the mean, summing to 1; None when nothing with weight was added."""
        return softmax(self._sums, self._weight) if self._sums else None


class SpeechBelief:
    """How sure it is, over the steps of an utterance, that it is speech; what is long ago fades.

    A single step is easily mistaken: a door is speech for a moment, but not for long. What is averaged is the logarithm
    of the odds, so that a step that is sure counts for more than one that wavers.
    """

    def __init__(self) -> None:
        self._log_odds, self._count = 0.0, 0

    def add(self, probability: float) -> float:
        """Add a step, and return the belief (0..1), in which the latest of 16 steps or more weighs a sixteenth."""
        self._count = min(self._count + 1, BELIEF_STEPS)
        kept = min(max(probability, LEAST_PROBABILITY), 1.0 - LEAST_PROBABILITY)
        self._log_odds += (math.log(kept / (1.0 - kept)) - self._log_odds) / self._count
        return 1.0 / (1.0 + math.exp(-self._log_odds))
