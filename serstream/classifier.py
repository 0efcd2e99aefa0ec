"""Scores of one stream, step by step, of the segment that ends there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from serstream.batch import Asking, Pooled
from serstream.ear import Outputs
from serstream.network import Network
from serstream.pooling import MovingStatistics, pooling_weights
from serstream.posteriors import softmax


class Scores(NamedTuple):
    """Probabilities of one segment: ``emotion`` (n_emotions) and ``voice`` (2) each sum to 1, ``speech`` is 0 to 1.

    ``speech`` says how likely what the gate let through is speech at all, and not music, an animal or a machine;
    ``n_spoken`` is the number of outputs that all of it rests on.
    """

    emotion: list[float]
    voice: list[float]
    speech: float
    n_spoken: int


class Classifier:
    """Turn the trunk's outputs of one stream into scores, step by step. Called from one thread only.

    Parameters
    ----------
    network : Network
        Any number of streams may share it.
    """

    def __init__(self, network: Network) -> None:
        self.manifest, self._network = network.manifest, network
        self.reset()

    def reset(self) -> None:
        """Begin behind a hole: no speech was heard."""
        m = self.manifest
        self._segment = MovingStatistics(m.segment_frames // m.stride, self._network.channels)
        self._heard = np.zeros(m.evidence_frames // m.stride, bool)

    def step(self, outputs: Outputs) -> Asking[Scores | None]:
        """Take what was heard of a step; a stream for :func:`serstream.batch.together`.

        Returns
        -------
        scores : Scores or None
            None while the segment holds less than ``min_segment_frames`` of speech.
        """
        m = self.manifest
        heard = np.concatenate([self._heard, outputs.speech])
        self._segment.push(outputs.values, pooling_weights(heard, self._heard.size))
        self._heard = heard[len(outputs.speech) :]
        if self._segment.n_spoken * m.stride < m.min_segment_frames:
            return None
        return self._scores((yield Pooled(self._segment.pooled(self._network.output_scale))))

    def _scores(self, logits: dict[str, list[float]]) -> Scores:
        m = self.manifest
        return Scores(
            softmax(logits["emotion"], m.temperature),
            softmax(logits["voice"], m.voice_temperature),
            softmax(logits["speech"])[0],
            self._segment.n_spoken,
        )
