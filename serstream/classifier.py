"""Scores of one stream, step by step: its cepstral mean, what the trunk remembers of it, and its segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.batch import Asking, Pooled, TrunkStep
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.pooling import MovingStatistics, pooling_weights


class Scores(NamedTuple):
    """Probabilities of one segment: ``emotion`` (n_emotions,) and ``voice`` (2,) each sum to 1, ``speech`` is 0 to 1.

    ``speech`` says how likely what the gate let through is speech at all, and not music, an animal or a machine.
    """

    emotion: NDArray[np.float64]
    voice: NDArray[np.float64]
    speech: float


class Classifier:
    """Turn the frames of one stream into scores, step by step. Called from one thread only.

    Parameters
    ----------
    network : Network
        Any number of streams may share it.
    mean : CepstralMean, optional
        What the frames are normalised by, and which is moved on by them; None for a new one of the manifest.
    """

    def __init__(self, network: Network, mean: CepstralMean | None = None) -> None:
        self.manifest = network.manifest
        self.network = network
        self._mean = network.manifest.cepstral_mean() if mean is None else mean
        self.reset()

    def reset(self) -> None:
        """Begin behind a hole: the context is the normalised zero vector, no speech was heard; the mean stays."""
        m = self.manifest
        self._state = self.network.at_rest
        self._segment = MovingStatistics(m.segment_frames // m.stride, self.network.channels)
        self._heard = np.zeros(m.evidence_frames, bool)

    def step(self, frames: NDArray[np.float32], speech: NDArray[np.bool_]) -> Asking[Scores | None]:
        """Take the frames of a step; a stream for :func:`serstream.batch.together`.

        Parameters
        ----------
        frames : ndarray of shape (n, n_mfcc)
            MFCC; n is ``step_frames``, or fewer at the end of a stream.
        speech : ndarray of shape (n,)
            Which of them are speech.

        Returns
        -------
        scores : Scores or None
            None while the segment holds less than ``min_segment_frames`` of speech.
        """
        m = self.manifest
        step = np.zeros((m.step_frames, m.front_end.n_mfcc), np.float32)
        step[: len(frames)] = self._mean.normalise(frames, speech)
        outputs, self._state = yield TrunkStep(step, self._state)
        heard = np.concatenate([self._heard, speech])
        weights = pooling_weights(heard, m.stride, m.evidence_frames)
        self._heard = heard[len(speech) :]
        self._segment.push(outputs[: len(weights)], weights)
        if self._segment.n_spoken * m.stride < m.min_segment_frames:
            return None
        return self._scores((yield Pooled(self._segment.pooled(self.network.output_scale))))

    def _scores(self, logits: dict[str, NDArray[np.float64]]) -> Scores:
        m = self.manifest
        emotion, voice, speech = (logits[name] for name in ("emotion", "voice", "speech"))
        return Scores(softmax(emotion / m.temperature), softmax(voice / m.voice_temperature), float(softmax(speech)[0]))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(x) / sum(exp(x)), safe against overflow."""
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())
