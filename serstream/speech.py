"""Which frames of a stream are speech."""

from __future__ import annotations

import numpy as np
from earshot import Detector
from numpy.typing import NDArray

FRAME_LENGTH = 256
"""Samples per decision of the detector: 16 ms at 16 kHz, fixed by the library."""


class SpeechDetector:
    """Tell speech from everything else, a frame of 16 ms at a time.

    Frame ``f`` covers samples ``[f * 256, (f + 1) * 256)``. For any way of cutting a signal into blocks the
    concatenated outputs are equal. Called from one thread only.
    """

    def __init__(self) -> None:
        self._detector = Detector()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard: the next sample starts frame 0."""
        self._detector.reset()
        self._tail = np.empty(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a block, of any length, and return the speech probability (0 to 1) of each frame that it completes."""
        y = np.concatenate([self._tail, samples]) if self._tail.size else samples
        n = y.size // FRAME_LENGTH
        frames = np.minimum(np.maximum(y[: n * FRAME_LENGTH], -1.0), 1.0).reshape(n, FRAME_LENGTH)
        self._tail = y[n * FRAME_LENGTH :].copy()
        return np.array(list(map(self._detector.predict_f32, frames)), np.float32)
