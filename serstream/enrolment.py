"""From what a person says to the mean cepstrum of it, without thread, file or clock."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serstream.batch import alone
from serstream.config import SAMPLE_RATE
from serstream.ear import Ear
from serstream.features import StreamingMfcc
from serstream.network import Network
from serstream.normalisation import UNITS, in_units
from serstream.steps import Steps


class Enrolment:
    """Add up the cepstra of speech until there is enough. Called from one thread only.

    The same samples give the same mean, to the bit, for any way of cutting them into blocks. What is speech is heard
    as :class:`~serstream.pipeline.Pipeline` hears it; no frame spans a hole.

    Parameters
    ----------
    network : Network
        Of the model that will use the mean.
    threshold : float
        As in :class:`~serstream.ear.Ear`.
    wanted_s : float
        Seconds of speech after which nothing is added any more.
    """

    def __init__(self, network: Network, *, threshold: float, wanted_s: float) -> None:
        self.wanted_s = wanted_s
        self._network, front_end = network, network.manifest.front_end
        self._stride, self._frame_s = network.manifest.stride, front_end.hop_length / SAMPLE_RATE
        self._wanted = max(1, math.ceil(wanted_s / self._frame_s))
        self._steps, self._mfcc = Steps(network.manifest), StreamingMfcc(front_end)
        self._ear = Ear(network, threshold=threshold)
        self._sum = np.zeros(front_end.n_mfcc, np.int64)
        self._count = 0

    def push(self, first_sample: int, samples: NDArray[np.float32]) -> None:
        """Take the next samples (float32 at 16 kHz); a jump of ``first_sample``, their index, is a hole."""
        if first_sample != self._steps.next_sample:
            self._steps.restart(first_sample)
            self._mfcc.reset()
            self._ear.reset()
        for step in self._steps.push(samples):
            frames = self._mfcc.push(step)
            speech = alone(self._network, self._ear.step(frames)).speech
            spoken = frames[np.repeat(speech, self._stride)][: self._wanted - self._count]
            self._sum += in_units(spoken).sum(axis=0)
            self._count += len(spoken)

    @property
    def speech_s(self) -> float:
        """Seconds of speech that were added up."""
        return round(self._count * self._frame_s, 3)

    @property
    def complete(self) -> bool:
        """Whether there is enough."""
        return self._count == self._wanted

    def mean(self) -> list[float]:
        """Return the mean cepstrum, n_mfcc numbers; there must have been speech."""
        return [float(x) for x in self._sum / (self._count * UNITS)]
