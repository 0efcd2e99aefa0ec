"""What is heard of one stream before anything is concluded: the trunk's outputs, and which of them are speech."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.batch import Asking, TrunkStep
from serstream.network import Network
from serstream.normalisation import CepstralMean


class Outputs(NamedTuple):
    """What the trunk made of a step: ``values`` (n, channels), int8, and which of them are ``speech`` (n,)."""

    values: NDArray[np.int8]
    speech: NDArray[np.bool_]


class Ear:
    """Normalise the frames of one stream, let the trunk hear them, and move the mean by what is speech.

    The frames of a step are measured against the speech before it. Called from one thread only.

    Parameters
    ----------
    network : Network
        Any number of streams may share it.
    mean : CepstralMean, optional
        What the frames are normalised by, and which is moved on by them; None for a new one of the manifest.
    threshold : float
        An output is speech from this probability on, 0 to 1.
    """

    def __init__(self, network: Network, mean: CepstralMean | None = None, *, threshold: float) -> None:
        self.manifest, self._network = network.manifest, network
        self._mean = network.manifest.cepstral_mean() if mean is None else mean
        self._least_log_odds = log_odds(threshold)
        self.reset()

    def reset(self) -> None:
        """Begin behind a hole: the context is the normalised zero vector; the mean stays."""
        self._state = self._network.at_rest

    def step(self, frames: NDArray[np.float32]) -> Asking[Outputs]:
        """Hear the frames of a step; a stream for :func:`serstream.batch.together`.

        Parameters
        ----------
        frames : ndarray of shape (n, n_mfcc)
            MFCC; n is ``step_frames``, or fewer at the end of a stream: what makes no whole output is not heard.
        """
        m = self.manifest
        step = np.zeros((m.step_frames, m.front_end.n_mfcc), np.float32)
        step[: len(frames)] = self._mean.normalise(frames)
        values, gate, self._state = yield TrunkStep(step, self._state)
        n = len(frames) // m.stride
        speech = gate[:n] >= self._least_log_odds
        self._mean.move(frames[: n * m.stride], np.repeat(speech, m.stride))
        return Outputs(values[:n], speech)


def log_odds(probability: float) -> float:
    """Return ln(p / (1 - p)), of 0 and 1 too."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))
