"""Where samples come from: a microphone, a recording, standard input or a test signal, all mono at 16 kHz.

Files and pipes wait for their reader and lose nothing; a microphone drops, and counts, what nobody reads.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serstream.capture import Resampler
from serstream.config import (
    SAMPLE_RATE,
    DemoSource,
    FileSource,
    MicrophoneSource,
    SourceConfig,
    StdinSource,
    SyntheticSource,
)
from serstream.errors import SourceError
from serstream.events import Status
from serstream.microphone import Microphone, devices
from serstream.recordings import BLOCK_S, Riff, decode, is_riff, open_file, parse_riff, read_file
from serstream.resources import packaged
from serstream.ring import Block, Hole

__all__ = [
    "Block",
    "Hole",
    "Microphone",
    "SoundFile",
    "Source",
    "Stdin",
    "Synthetic",
    "devices",
    "make",
    "read_file",
]

_READ_BYTES = 65_536
_NOTHING = "standard input ended before its first sample; pipe PCM or a whole WAV into it"
_PCM = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}
_DTYPES: dict[str, np.dtype[Any]] = {
    "s16le": np.dtype("<i2"),
    "s32le": np.dtype("<i4"),
    "f32le": np.dtype("<f4"),
}


class Source(Protocol):
    """The seam between the outside and the middle.

    ``open``, ``read`` and ``close`` are called from the analysis thread, everything else from any thread.
    """

    @property
    def ended(self) -> bool:
        """Whether no more will come."""

    @property
    def status(self) -> Status:
        """How the source is."""

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz; once closed, ``captured`` = ``consumed`` + ``ring_overruns`` + ``unread``."""

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for what can never be read."""

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return what comes next, or None if nothing did within the timeout or the source has ended.

        Raises :class:`SourceError` when a file or pipe turns out not to hold what it promised.
        """

    def mute(self) -> None:
        """Stop listening until :meth:`unmute`; reading delivers a hole."""

    def unmute(self) -> None:
        """Listen again."""

    def close(self) -> None:
        """Release everything within bounded time; calling it again does nothing."""


def make(config: SourceConfig) -> Source:
    """Return the source, not opened yet, that a configuration describes."""
    match config:
        case MicrophoneSource():
            return Microphone(config)
        case FileSource():
            return SoundFile(config)
        case StdinSource():
            return Stdin(config)
        case SyntheticSource():
            return Synthetic(config)
        case DemoSource():
            return SoundFile(FileSource(str(packaged("demo.flac")), realtime=True, loop=True))


class _Pulled:
    """What a file, a pipe and a test signal share: they wait, so that nothing is lost.

    A subclass gives :meth:`_fetch`. While muted nothing is fetched; what is real time goes on where it
    stopped.
    """

    def __init__(self, *, realtime: bool) -> None:
        self._realtime = realtime
        self._first = 0
        self._queue: deque[Block | Hole] = deque()
        self._pending: tuple[NDArray[np.float32], int] | None = None
        self._start_s: float | None = None
        self._exhausted = False
        self._closed = False
        self._mute_wanted = False
        self._muted_s: float | None = None
        self._lost_muted = 0
        self._changed = threading.Event()
        self._counters = dict.fromkeys(
            ("captured", "consumed", "input_overflows", "ring_overruns", "non_finite", "unread"), 0
        )

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        """Return samples and how many of them were not finite, or None; set ``_exhausted`` at the end."""
        raise NotImplementedError

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for what can never be read."""

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self._closed or (self._exhausted and self._pending is None and not self._queue)

    @property
    def status(self) -> Status:
        """How the source is."""
        if self._mute_wanted:
            return "muted"
        return "running" if self._counters["captured"] else "starting"

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz since :meth:`open`."""
        return dict(self._counters)

    def mute(self) -> None:
        """Stop listening; may be called from any thread."""
        self._mute_wanted = True
        self._changed.set()

    def unmute(self) -> None:
        """Listen again; may be called from any thread."""
        self._mute_wanted = False
        self._changed.set()

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return the next block or hole, or None if there was none within the timeout or there is no more."""
        deadline = time.monotonic() + timeout_s
        if not self._queue:
            self._switch()
        if not self._queue and self._muted_s is not None:
            self._skip(timeout_s)
            self._switch()
        if not self._queue and self._muted_s is None:
            self._advance(deadline)
        return self._deliver() if self._queue else None

    def _switch(self) -> None:
        """Obey :meth:`mute` and :meth:`unmute`."""
        self._changed.clear()
        if self._mute_wanted and self._muted_s is None:
            self._muted_s, self._lost_muted = time.monotonic(), 0
            self._queue.append(Hole("start", "muted", self._first, 0, estimated=False))
        elif not self._mute_wanted and self._muted_s is not None:
            if self._start_s is not None and not self._lost_muted:
                self._start_s += time.monotonic() - self._muted_s
            self._first += self._lost_muted
            self._queue.append(Hole("end", "muted", self._first, self._lost_muted, estimated=False))
            self._muted_s = None

    def _skip(self, timeout_s: float) -> None:
        """Spend the time while muted."""
        self._changed.wait(timeout_s)

    def _advance(self, deadline: float) -> None:
        """Queue the next block if it comes, and is due, before the deadline."""
        while self._pending is None and not self._exhausted:
            self._pending = self._fetch(max(0.0, deadline - time.monotonic()))
            if self._pending is not None:
                self._counters["captured"] += self._pending[0].size
            elif not self._exhausted and time.monotonic() >= deadline:
                return
        if self._pending is not None and self._is_due(self._pending[0].size, deadline):
            self._enqueue(*self._pending)
            self._pending = None

    def _is_due(self, n_samples: int, deadline: float) -> bool:
        """Wait until the last sample would have been spoken; False if that is after the deadline."""
        if not self._realtime:
            return True
        if self._start_s is None:
            self._start_s = time.monotonic()
        due_s = self._start_s + (self._first + n_samples) / SAMPLE_RATE
        wait_s = min(due_s, deadline) - time.monotonic()
        return (wait_s <= 0 or not self._changed.wait(wait_s)) and due_s <= max(deadline, time.monotonic())

    def _captured_s(self, end: int) -> float | None:
        return self._start_s + end / SAMPLE_RATE if self._start_s is not None else None

    def _enqueue(self, samples: NDArray[np.float32], replaced: int) -> None:
        if replaced:
            self._counters["non_finite"] += replaced
            self._queue.append(Hole("start", "non_finite", self._first, replaced, estimated=False))
            self._queue.append(Hole("end", "non_finite", self._first, replaced, estimated=False))
        if samples.size:
            captured_s = self._captured_s(self._first + samples.size)
            self._queue.append(Block(self._first, samples, captured_s))
            self._first += samples.size

    def _deliver(self) -> Block | Hole:
        item = self._queue.popleft()
        if isinstance(item, Block):
            self._counters["consumed"] += item.samples.size
        return item

    def close(self) -> None:
        """End; what was fetched and not read is counted as ``unread``."""
        self._closed = True
        left = sum(item.samples.size for item in self._queue if isinstance(item, Block))
        self._counters["unread"] += left + (self._pending[0].size if self._pending else 0)
        self._queue.clear()
        self._pending = None
        self._changed.set()


class SoundFile(_Pulled):
    """A recording: WAV, FLAC, OGG or MP3, any rate and number of channels."""

    def __init__(self, config: FileSource) -> None:
        super().__init__(realtime=config.realtime)
        self._path = Path(config.path)
        self._loop = config.loop
        self._blocks: Iterator[tuple[NDArray[np.float32], int]] = iter(())

    def open(self) -> None:
        """Begin at the start of the file.

        Raises
        ------
        SourceError
            If it is missing, empty, a folder, not audio, or shorter than a WAV header promises.
        """
        open_file(self._path).close()
        self._blocks = self._begin()

    def _begin(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        return decode(self._path, BLOCK_S, strict=False)

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


class Synthetic(_Pulled):
    """A test signal; its root-mean-square level is ``level_dbfs``. One configuration, one signal."""

    def __init__(self, config: SyntheticSource) -> None:
        super().__init__(realtime=config.realtime)
        self._config = config
        self._made = 0
        self._end = None if config.duration_s is None else round(config.duration_s * SAMPLE_RATE)
        self._noise = np.random.Generator(np.random.Philox(config.seed))

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


class Stdin(_Pulled):
    """PCM from standard input or another stream with a file descriptor, mono at 16 kHz.

    While muted, what arrives is read and thrown away: it was spoken while nobody was to listen.
    ``partial_frames`` counts a last sample frame that was cut off.
    """

    def __init__(self, config: StdinSource, fd: int = 0) -> None:
        super().__init__(realtime=False)
        self._fd = fd
        self._bytes = b""
        self._header_read = False
        self._left: int | None = None
        self._arrived_s = 0.0
        self._counters["partial_frames"] = 0
        self._set_format(config.format, config.sample_rate, config.channels)

    def _set_format(self, format_: str, sample_rate: int, channels: int) -> None:
        self._dtype, self._rate, self._channels = _DTYPES[format_], sample_rate, channels
        self._resampler = Resampler(sample_rate, SAMPLE_RATE)

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for a terminal, a folder or a closed descriptor."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError as error:
            raise SourceError("standard input is closed; pipe PCM into it, as arecord does") from error
        if os.isatty(self._fd):
            raise SourceError(
                "standard input is a terminal; pipe PCM into it, for example: "
                "arecord -f S16_LE -r 16000 | serstream run --source -"
            )
        if stat.S_ISDIR(mode):
            raise SourceError("standard input is a folder; pipe PCM into it, for example from arecord")

    def _captured_s(self, end: int) -> float | None:
        return self._arrived_s

    def _skip(self, timeout_s: float) -> None:
        if self._exhausted:
            self._changed.wait(timeout_s)
        elif block := self._fetch(timeout_s):
            self._lost_muted += block[0].size

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return None
        data = os.read(self._fd, _READ_BYTES)
        self._arrived_s = time.monotonic()
        self._bytes += data
        if not self._header_read and not self._read_header(at_end=not data):
            return None
        return self._convert(at_end=not data)

    def _read_header(self, *, at_end: bool) -> bool:
        """Take the RIFF header from the stream, if it has one; False while it is incomplete."""
        head = self._bytes
        riff = parse_riff(head, "standard input")
        if (
            riff is None
            and not at_end
            and (is_riff(head) or (len(head) < 12 and b"RIFF".startswith(head[:4])))
        ):
            return False
        if riff is not None:
            self._honour(riff)
        elif not head or is_riff(head):
            raise SourceError(_NOTHING)
        self._header_read = True
        return True

    def _honour(self, riff: Riff) -> None:
        if riff.format not in _PCM or not riff.channels or not riff.sample_rate:
            tag, bits = riff.format
            raise SourceError(
                f"the WAV on standard input has format {tag} with {bits} bits, {riff.channels} channels and "
                f"{riff.sample_rate} Hz; allowed are 16 or 32-bit PCM (format 1) and 32-bit float (format 3)"
            )
        self._set_format(_PCM[riff.format], riff.sample_rate, riff.channels)
        self._left = riff.data_bytes
        self._bytes = self._bytes[riff.data_at :]

    def _convert(self, *, at_end: bool) -> tuple[NDArray[np.float32], int] | None:
        """Turn the whole sample frames at hand into samples."""
        if self._left is not None and len(self._bytes) >= self._left:
            self._bytes, at_end = self._bytes[: self._left], True  # what follows the data chunk is not sound
        frame_bytes = self._dtype.itemsize * self._channels
        size = len(self._bytes) // frame_bytes * frame_bytes
        whole, self._bytes = self._bytes[:size], self._bytes[size:]
        if self._left is not None:
            self._left -= size
        if at_end:
            self._exhausted = True
            self._counters["partial_frames"] += bool(self._bytes)
        before = self._resampler.non_finite
        samples = self._resampler.push(self._to_float(whole), last=at_end)
        replaced = (self._resampler.non_finite - before) * SAMPLE_RATE
        return (samples, -(-replaced // self._rate)) if samples.size or replaced else None

    def _to_float(self, data: bytes) -> NDArray[np.float32]:
        block = np.frombuffer(data, self._dtype).reshape(-1, self._channels)
        samples: NDArray[np.float32] = block.astype(np.float32)
        if self._dtype.kind == "i":
            samples /= np.float32(2 ** (8 * self._dtype.itemsize - 1))
        return samples
