"""The sound that everything is measured with: the embedded demo, again and again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.recordings import read_file
from serstream.resources import packaged

Samples = NDArray[np.float32]


@lru_cache(maxsize=1)
def _demo() -> Samples:
    return np.concatenate(list(read_file(packaged("demo.flac"))))


def speech(seconds: float) -> Samples:
    """Return so many seconds of speech, float32 at 16 kHz."""
    return np.resize(_demo(), round(seconds * SAMPLE_RATE))


def in_blocks(seconds: float, block_s: float) -> list[Samples]:
    """Return speech in blocks of ``block_s`` seconds, the last one whole."""
    n = round(block_s * SAMPLE_RATE)
    signal = speech(seconds)
    return [signal[i : i + n] for i in range(0, signal.size - n + 1, n)]


def write_speech(path: Path, seconds: float) -> None:
    """Write speech as a WAV of 16 bits at 16 kHz."""
    import soundfile

    soundfile.write(path, speech(seconds), SAMPLE_RATE, subtype="PCM_16")
