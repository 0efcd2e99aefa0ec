"""PCM from a pipe."""

from __future__ import annotations

import os
import select
import stat
import time
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE, Channels, DeviceRate, StdinSource
from serstream.errors import SourceError
from serstream.events import Status
from serstream.pcm import DTYPES, to_float
from serstream.pulled import Pulled
from serstream.recordings import Riff, is_riff, parse_riff
from serstream.resampler import Resampler
from serstream.sameness import Sameness

STALL_S = 5.0
"""A pipe that has brought nothing for this long is ``stalled`` until something comes: no hole, nothing was lost."""
_READ_BYTES = 65_536
_RATES, _CHANNELS = (get_args(kind)[1] for kind in (DeviceRate, Channels))
_NOTHING = "standard input ended before its first sample; pipe PCM or a whole WAV into it"
_PCM = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}


class Stdin(Pulled):
    """PCM from standard input or another stream with a file descriptor, mono at 16 kHz.

    While muted, what arrives is read and thrown away: it was spoken while nobody was to listen.
    ``partial_frames`` counts a last sample frame that was cut off. After ``stall_s`` seconds without a byte
    the status is ``stalled``.
    """

    def __init__(self, config: StdinSource, fd: int = 0, stall_s: float = STALL_S) -> None:
        super().__init__(realtime=False)
        self._fd = fd
        self._stall_s, self._silence_s = stall_s, config.silence_s
        self._stalled = False
        self._bytes = b""
        self._header_read = False
        self._left: int | None = None
        self._arrived_s = 0.0
        self._counters["partial_frames"] = 0
        self._set_format(config.format, config.sample_rate, config.channels)

    def _set_format(self, format_: str, sample_rate: int, channels: int) -> None:
        self._format, self._rate, self._channels = format_, sample_rate, channels
        self._watch = Sameness(sample_rate, self._silence_s)
        self._resampler = Resampler(sample_rate, SAMPLE_RATE, self._watch)

    @property
    def status(self) -> Status:
        """How the source is."""
        return "stalled" if self._stalled and not self._mute_wanted else super().status

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for a terminal, a folder or a closed descriptor."""
        self._arrived_s = time.monotonic()
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
            self._counters["muted"] += block[0].size

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            self._stalled = time.monotonic() - self._arrived_s > self._stall_s
            return None
        self._stalled = False
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
        if riff is None and not at_end and (is_riff(head) or (len(head) < 12 and b"RIFF".startswith(head[:4]))):
            return False
        if riff is not None:
            self._honour(riff)
        elif not head or is_riff(head):
            raise SourceError(_NOTHING)
        self._header_read = True
        return True

    def _honour(self, riff: Riff) -> None:
        fits = _RATES.ge <= riff.sample_rate <= _RATES.le and _CHANNELS.ge <= riff.channels <= _CHANNELS.le
        if riff.format not in _PCM or not fits:
            tag, bits = riff.format
            raise SourceError(
                f"the WAV on standard input has format {tag} with {bits} bits, {riff.channels} channels and "
                f"{riff.sample_rate} Hz; allowed are 16 or 32-bit PCM (format 1) and 32-bit float (format 3), "
                f"{_CHANNELS.ge} to {_CHANNELS.le} channels and {_RATES.ge} to {_RATES.le} Hz"
            )
        self._set_format(_PCM[riff.format], riff.sample_rate, riff.channels)
        self._left = riff.data_bytes
        self._bytes = self._bytes[riff.data_at :]

    def _convert(self, *, at_end: bool) -> tuple[NDArray[np.float32], int] | None:
        """Turn the whole sample frames at hand into samples."""
        if self._left is not None and len(self._bytes) >= self._left:
            self._bytes, at_end = self._bytes[: self._left], True  # what follows the data chunk is not sound
        frame_bytes = DTYPES[self._format].itemsize * self._channels
        size = len(self._bytes) // frame_bytes * frame_bytes
        whole, self._bytes = self._bytes[:size], self._bytes[size:]
        if self._left is not None:
            self._left -= size
        if at_end:
            self._exhausted = True
            self._counters["partial_frames"] += bool(self._bytes)
        before = self._resampler.non_finite
        block = to_float(whole, self._format).reshape(-1, self._channels)
        samples = self._resampler.push(block, last=at_end)
        replaced = (self._resampler.non_finite - before) * SAMPLE_RATE
        return (samples, -(-replaced // self._rate)) if samples.size or replaced else None
