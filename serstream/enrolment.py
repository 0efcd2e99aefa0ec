"""From what a person says to the mean cepstrum of it, without thread, file or clock."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.frontend import StreamingFrontEnd
from serstream.manifest import Manifest
from serstream.normalisation import UNITS, in_units


class Enrolment:
    """Add up the cepstra of speech until there is enough. Called from one thread only.

    The same samples give the same mean, to the bit, for any way of cutting them into blocks. Front end and gate are
    those of :class:`~serstream.pipeline.Pipeline`; no frame spans a hole.

    Parameters
    ----------
    manifest : Manifest
        Of the model that will use the mean.
    threshold : float
        A frame is speech from this probability on, 0 to 1.
    wanted_s : float
        Seconds of speech after which nothing is added any more.

    Raises
    ------
    ModelError
        If the hop of the model is not that of the speech detector.
    """

    def __init__(self, manifest: Manifest, *, threshold: float, wanted_s: float) -> None:
        self.wanted_s = wanted_s
        self._threshold = threshold
        self._frame_s = manifest.front_end.hop_length / SAMPLE_RATE
        self._wanted = max(1, math.ceil(wanted_s * SAMPLE_RATE / manifest.front_end.hop_length))
        self._front_end = StreamingFrontEnd(manifest.front_end)
        self._sum = np.zeros(manifest.front_end.n_mfcc, np.int64)
        self._count = 0
        self._restart(0)

    def _restart(self, sample: int) -> None:
        self._front_end.reset()
        self._next_sample = sample

    def push(self, first_sample: int, samples: NDArray[np.float32]) -> None:
        """Take the next samples (float32 at 16 kHz); a jump of ``first_sample``, their index, is a hole."""
        if first_sample != self._next_sample:
            self._restart(first_sample)
        self._next_sample += samples.size
        frames, speech = self._front_end.push(samples)
        spoken = frames[speech >= self._threshold][: self._wanted - self._count]
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
