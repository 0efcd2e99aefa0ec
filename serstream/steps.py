"""A stream of samples cut into the steps of a model, wherever the blocks end in which it comes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from serstream.manifest import Manifest

Samples = NDArray[np.float32]


class Steps:
    """Cut a stream where each step of frames is complete: the first step is a window longer than a hop later.

    Attributes
    ----------
    next_sample : int
        Absolute index of the sample that comes next.
    """

    def __init__(self, manifest: Manifest) -> None:
        front_end = manifest.front_end
        self._length = manifest.step_frames * front_end.hop_length
        self._overlap = front_end.win_length - front_end.hop_length
        self.restart(0)

    def restart(self, sample: int) -> None:
        """Begin a stretch without holes at an absolute sample index; what is pending is dropped."""
        self._pending: list[Samples] = []
        self.next_sample = sample
        self._boundary = sample + self._length + self._overlap

    def push(self, samples: Samples) -> Iterator[Samples]:
        """Take the next samples, and yield those of every step that they complete, at its end."""
        while samples.size:
            n = self._boundary - self.next_sample
            part, samples = samples[:n], samples[n:]
            self._pending.append(part.copy())
            self.next_sample += part.size
            if self.next_sample == self._boundary:
                self._boundary += self._length
                yield self.rest()

    @property
    def missing(self) -> int:
        """How many samples complete the step."""
        return self._boundary - self.next_sample

    def rest(self) -> Samples:
        """Return what is pending, and forget it: at the end of a stream, less than a step."""
        samples = np.concatenate(self._pending) if self._pending else np.empty(0, np.float32)
        self._pending = []
        return samples
