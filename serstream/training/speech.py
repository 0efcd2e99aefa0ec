"""Where the speech is in a clean recording: what a network learns to hear as speech."""

from __future__ import annotations

import numpy as np
from earshot import Detector
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FRAME_LENGTH = 256
"""Samples per decision of the detector: 16 ms at 16 kHz, fixed by the library."""
SPEECH_PROBABILITY = 0.5
LOUD_SHARE = 0.95
"""The level of a recording is that of the frame below which this share of all frames lies."""
LEVEL_DBFS = -20.0
"""Level at which a recording is shown to the detector, which takes a quiet voice for none."""


def rms(samples: Samples) -> float:
    """Return the root mean square, at least 1e-6."""
    return max(1e-6, float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))) if samples.size else 1e-6


def spoken(samples: Samples) -> NDArray[np.bool_]:
    """Return which frames ``[f * 256, (f + 1) * 256)`` of a recording are speech, whatever its level."""
    n = samples.size // FRAME_LENGTH
    if not n:
        return np.zeros(0, bool)
    frames = samples[: n * FRAME_LENGTH].reshape(n, FRAME_LENGTH)
    loud = np.quantile(np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)), LOUD_SHARE)
    gain = 10 ** (LEVEL_DBFS / 20) / max(1e-6, float(loud))
    detector = Detector()
    probabilities = map(detector.predict_f32, np.clip(frames * np.float32(gain), -1.0, 1.0))
    return np.array(list(probabilities)) >= SPEECH_PROBABILITY


def speech_of(samples: Samples) -> NDArray[np.bool_]:
    """Return which samples of a recording are speech; those behind its last whole frame are none."""
    spread = np.repeat(spoken(samples), FRAME_LENGTH)
    return np.pad(spread, (0, samples.size - spread.size))


def speech_level(samples: Samples) -> float:
    """Return the root mean square of the speech in a recording; of all of it where there is none."""
    speech = speech_of(samples)
    return rms(samples[speech] if speech.any() else samples)
