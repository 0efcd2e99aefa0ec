"""What is heard of a signal before any network: cepstra, and which of their frames are speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ModelError
from serstream.features import FrontEnd, StreamingMfcc
from serstream.speech import FRAME_LENGTH, SpeechDetector

Array = NDArray[np.float32]


class StreamingFrontEnd:
    """Turn a stream of samples into MFCC frames, each with the probability that it begins in speech.

    For any way of cutting a signal into blocks the concatenated outputs are equal to the bit. Called from one thread
    only.

    Raises
    ------
    ModelError
        Unless a frame begins with each of the speech detector.
    """

    def __init__(self, front_end: FrontEnd, *, warp: float = 1.0) -> None:
        if front_end.hop_length != FRAME_LENGTH:
            raise ModelError(
                f"the model has hop_length {front_end.hop_length}, but speech detection needs {FRAME_LENGTH}; "
                "train it with that"
            )
        self._mfcc = StreamingMfcc(front_end, warp=warp)
        self._detector = SpeechDetector()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard: the next sample starts frame 0."""
        self._mfcc.reset()
        self._detector.reset()
        self._flags = np.empty(0, np.float32)

    def push(self, samples: Array) -> tuple[Array, Array]:
        """Take a block, of any length.

        Returns
        -------
        frames : ndarray of shape (n, n_mfcc), float32
            The frames that it completes.
        speech : ndarray of shape (n,), float32
            Their probabilities of speech, 0 to 1.
        """
        frames = self._mfcc.push(samples)
        flags = np.concatenate([self._flags, self._detector.push(samples)])
        self._flags = flags[len(frames) :]
        return frames, flags[: len(frames)]


def hear(samples: Array, front_end: FrontEnd, *, warp: float = 1.0) -> tuple[Array, Array]:
    """Return frames and probabilities of speech of a whole signal, as a new :class:`StreamingFrontEnd` hears it.

    ``warp`` as in :func:`serstream.features.mel_bank`.
    """
    return StreamingFrontEnd(front_end, warp=warp).push(samples)
