"""Where samples come from: a microphone, a recording, a pipe, the network or a test signal, all mono at 16 kHz.

Files and pipes wait for their reader and lose nothing; a microphone and the network drop, and count, what nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serstream.capture_process import devices
from serstream.config import (
    SAMPLE_RATE,
    DemoSource,
    FileSource,
    MicrophoneSource,
    NetworkSource,
    ReplaySource,
    SourceConfig,
    StdinSource,
    SyntheticSource,
)
from serstream.microphone import Microphone
from serstream.pulled import Pulled, Resume, Source
from serstream.recordings import BLOCK_S, decode, open_file, read_file
from serstream.remote import Remote
from serstream.replay import Replay
from serstream.resources import packaged
from serstream.ring import Block, Hole
from serstream.stdin import Stdin

__all__ = [
    "Block",
    "Hole",
    "Microphone",
    "Remote",
    "SoundFile",
    "Source",
    "Stdin",
    "Synthetic",
    "devices",
    "make",
    "read_file",
]


def make(config: SourceConfig) -> Source:
    """Return the source, not opened yet, that a configuration describes."""
    if isinstance(config, DemoSource):
        config = FileSource(str(packaged("demo.flac")), realtime=True, loop=True)
    match config:
        case MicrophoneSource():
            return Microphone(config)
        case FileSource():
            return SoundFile(config)
        case StdinSource():
            return Stdin(config)
        case NetworkSource():
            return Remote(config)
        case ReplaySource():
            return Replay(config)
        case SyntheticSource():
            return Synthetic(config)


class SoundFile(Pulled):
    """A recording: WAV, FLAC, OGG or MP3, any rate and number of channels."""

    def __init__(self, config: FileSource) -> None:
        super().__init__(realtime=config.realtime)
        self._path = Path(config.path)
        self._loop = config.loop
        self._blocks: Iterator[tuple[NDArray[np.float32], int]] = iter(())

    def open(self) -> None:
        """Begin at the start of the file, or where another went on to.

        Raises
        ------
        SourceError
            If it is missing, empty, a folder, not audio, or shorter than a WAV header promises.
        """
        with open_file(self._path) as file:
            length = round(int(file.frames) * SAMPLE_RATE / file.samplerate)
        self._blocks = self._begin(self._first % max(length, 1) if self._loop else self._first)

    def _begin(self, first_sample: int = 0) -> Iterator[tuple[NDArray[np.float32], int]]:
        return decode(self._path, BLOCK_S, strict=False, first_sample=first_sample)

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        block = next(self._blocks, None)
        if block is None and self._loop:
            self._blocks = self._begin()
        elif block is None:
            self._exhausted = True
        return block

    def close(self) -> None:
        """Close the file; what was fetched and not read is counted as ``unread``."""
        super().close()
        self._blocks = iter(())


class Synthetic(Pulled):
    """A test signal; its root-mean-square level is ``level_dbfs``. One configuration, one signal."""

    def __init__(self, config: SyntheticSource) -> None:
        super().__init__(realtime=config.realtime)
        self._config = config
        self._made = 0
        self._end = None if config.duration_s is None else round(config.duration_s * SAMPLE_RATE)
        self._noise = np.random.Generator(np.random.Philox(config.seed))

    def go_on(self, resume: Resume) -> None:
        """Take the place of another; noise begins again."""
        super().go_on(resume)
        self._made = self._first

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        n_samples = int(BLOCK_S * SAMPLE_RATE)
        if self._end is not None:
            n_samples = min(n_samples, self._end - self._made)
        if n_samples <= 0:
            self._exhausted = True
            return None
        samples = self._signal(n_samples)
        samples *= np.float32(10 ** (self._config.level_dbfs / 20))
        self._made += n_samples
        return samples, 0

    def _signal(self, n_samples: int) -> NDArray[np.float32]:
        """Return the next samples with a root-mean-square level of 1, or silence."""
        if self._config.signal == "noise":
            noise: NDArray[np.float32] = self._noise.standard_normal(n_samples, np.float32)
            return noise
        if self._config.signal == "silence":
            return np.zeros(n_samples, np.float32)
        turns = np.arange(self._made, self._made + n_samples) * self._config.frequency_hz / SAMPLE_RATE
        tone: NDArray[np.float32] = (np.sqrt(2) * np.sin(2 * np.pi * (turns % 1))).astype(np.float32)
        return tone
