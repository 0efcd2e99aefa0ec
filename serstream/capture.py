"""The capture process, ``python -m serstream.capture``: one device, from PortAudio into the sample ring.

It is small so that it can be killed: PortAudio can hang for ever, and its parent then starts another. It ends
when its standard input ends, which the parent's death brings about, and on SIGTERM at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from serstream.errors import NoMicrophoneError, SourceError
from serstream.ring import SampleRing, Slot

_BAD_RATE = -9997
_COMMON_RATES = (48_000, 44_100, 16_000)
_DEVICE_RING_S = 10.0
_MAX_CHANNELS = 2
_LIST_LIMIT_S = 30
RELAXATION = 200e-6
"""Seconds per second by which the envelope of the capture time may rise: twice a poor crystal's drift."""


class Device(NamedTuple):
    """A device that can record; ``default_rate`` in Hz; ``number`` is good for one process alone."""

    number: int
    name: str
    host_api: str
    max_input_channels: int
    default_rate: int
    is_default: bool

    @property
    def stable_name(self) -> str:
        """The name without the card numbers, which change when a device is plugged in again."""
        return re.sub(r"\s*\(hw:\d+,\d+\)$", "", self.name)


class Wanted(NamedTuple):
    """What the parent asks for; the fields after ``wake_fd`` are those of the configured source."""

    ring_fd: int
    wake_fd: int
    device: str
    sample_rate: int | None
    channels: int | None
    block_s: float


class Resampler:
    """Mix down to mono, replace what is not finite by 0, and resample; equal for any cutting of the signal.

    Called from one thread.

    Attributes
    ----------
    non_finite : int
        Samples replaced so far, counted at the incoming rate after mixing down.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self.non_finite = 0
        self._stream: Any = None
        if rate_in != rate_out:
            import soxr

            self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="HQ")

    def push(self, block: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """Take samples of shape (n_samples, channels), return mono of shape (m,), at ``last`` all of it."""
        mono = self._clean(block)
        if self._stream is None:
            return mono
        resampled: NDArray[np.float32] = self._stream.resample_chunk(mono, last=last)
        return resampled

    def _clean(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            # copies in either case: what came in is overwritten by the next block
            mono = block[:, 0].copy() if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        finite = np.isfinite(mono)
        if not finite.all():
            self.non_finite += int(mono.size - np.count_nonzero(finite))
            mono[~finite] = 0.0
        return mono


class CaptureClock:
    """The monotonic time of sample 0: running lower envelope of (callback time minus samples over rate).

    A callback is never early, so the lowest is the truest. ``RELAXATION`` lets the envelope rise slowly, or
    the drift of a device slower than its nominal rate would freeze it.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._last_ns = 0
        self.origin_ns: int | None = None

    def update(self, now_ns: int, n_samples: int) -> int:
        """Take the time of a callback and the samples so far; return the time of sample 0 in ns."""
        origin = now_ns - n_samples * 1_000_000_000 // self._rate
        if self.origin_ns is not None:
            origin = min(origin, self.origin_ns + int((now_ns - self._last_ns) * RELAXATION))
        self._last_ns = now_ns
        self.origin_ns = origin
        return origin

    def lost(self, now_ns: int, n_samples: int) -> float:
        """Return the seconds lost if this callback is on time; begin a new envelope."""
        before, self.origin_ns = self.origin_ns, None
        return 0.0 if before is None else max(0.0, (self.update(now_ns, n_samples) - before) / 1e9)


class DeviceRing:
    """What PortAudio's thread writes into and the main thread reads from: samples at the device's rate.

    Calling it is the audio callback: it copies, advances and counts, and does nothing else. The interpreter's
    lock orders what it stores; ``stamp_ns`` is set before ``written`` and read after it, so that a pair that
    does not belong together looks late, never early.
    """

    def __init__(self, n_samples: int, channels: int) -> None:
        self.samples: NDArray[np.float32] = np.zeros((n_samples, channels), np.float32)
        self.written = 0
        self.stamp_ns = 0
        self.callbacks = 0
        self.overflows = 0
        self.overflow_at = 0
        self.finished = False
        self.wake_fd = os.eventfd(0)

    def __call__(self, indata: NDArray[np.float32], n_samples: int, _time: Any, status: Any) -> None:
        """Copy one block; called from PortAudio's thread."""
        self.stamp_ns = time.monotonic_ns()
        at = self.written % len(self.samples)
        head = min(n_samples, len(self.samples) - at)
        self.samples[at : at + head] = indata[:head]
        self.samples[: n_samples - head] = indata[head:]
        if status.input_overflow:
            self.overflow_at = self.written
            self.overflows += 1
        self.written += n_samples
        self.callbacks += 1
        os.eventfd_write(self.wake_fd, 1)

    def finish(self) -> None:
        """Say that no more will come; called from PortAudio's thread."""
        self.finished = True
        os.eventfd_write(self.wake_fd, 1)


class Transfer:
    """From the device's ring to the sample ring: mixed down, resampled, counted; on the main thread."""

    def __init__(self, device: DeviceRing, ring: SampleRing, rate: int, latency_s: float) -> None:
        self._device, self._ring, self._rate = device, ring, rate
        self._ring_rate = ring.header[Slot.RATE]
        self._latency_ns = ring.header[Slot.LATENCY_NS] = int(latency_s * 1e9)
        ring.header[Slot.DEVICE_RATE] = rate
        self._resampler = Resampler(rate, self._ring_rate)
        self._clock = CaptureClock(rate)
        self._read = 0
        self._overflows = 0
        self._skipped_ns = 0

    def run(self) -> None:
        """Move everything that has arrived since the last call."""
        overflows, overflow_at = self._device.overflows, self._device.overflow_at
        written = self._device.written
        stamp_ns = self._device.stamp_ns
        if written == 0:
            return
        if written - self._read > len(self._device.samples):
            self._overrun(written)
        if overflows != self._overflows:
            self._move(overflow_at)
            lost_s = self._clock.lost(stamp_ns, written)
            self._count_overflow(overflows - self._overflows, lost_s)
            self._overflows = overflows
        self._stamp(stamp_ns, written)
        self._move(written)

    def _overrun(self, written: int) -> None:
        """Skip what was overwritten because this thread did not run for longer than the ring holds."""
        lost_s = (written - self._read) / self._rate
        self._read = written
        self._skipped_ns += int(lost_s * 1e9)
        self._count_overflow(1, lost_s)

    def _count_overflow(self, events: int, lost_s: float) -> None:
        header = self._ring.header
        header[Slot.OVERFLOW_AT] = header[Slot.WRITE]
        header[Slot.OVERFLOW_SAMPLES] += max(1, round(lost_s * self._ring_rate))
        self._ring.fence()
        header[Slot.OVERFLOW_EVENTS] += events

    def _stamp(self, stamp_ns: int, written: int) -> None:
        header = self._ring.header
        header[Slot.ORIGIN_NS] = self._clock.update(stamp_ns, written) + self._skipped_ns - self._latency_ns
        header[Slot.CALLBACKS] = self._device.callbacks
        header[Slot.HEARTBEAT_NS] = stamp_ns

    def _move(self, end: int) -> None:
        """Write the device's samples up to ``end`` to the ring."""
        capacity = len(self._device.samples)
        while self._read < end:
            at = self._read % capacity
            n_samples = min(end - self._read, capacity - at)
            self._ring.write(self._resampler.push(self._device.samples[at : at + n_samples]))
            self._read += n_samples
        replaced = self._resampler.non_finite * self._ring_rate
        self._ring.header[Slot.NON_FINITE] = -(-replaced // self._rate)


def choose(found: list[Device], pattern: str) -> Device:
    """Return the first device whose name matches the regular expression, the default one for an empty one.

    Raises
    ------
    NoMicrophoneError
        If the machine has none at all.
    SourceError
        If none matches; the sentence lists what there is.
    """
    for device in found:
        if re.search(pattern, device.name, re.IGNORECASE) if pattern else device.is_default:
            return device
    if not found:
        raise NoMicrophoneError("no microphone was found; plug one in, or name a file, '-' or 'demo' as the source")
    names = ", ".join(repr(device.stable_name) for device in found)
    what = f"no microphone matches {pattern!r}" if pattern else "the system has no default microphone"
    raise SourceError(f"{what}; there are {names}; name one of them as the source's device")


def load_sounddevice() -> Any:
    """Import sounddevice, which starts PortAudio; raises :class:`SourceError` where it cannot be had."""
    configured = os.environ.get("ALSA_CONFIG_PATH")
    if configured and not os.path.exists(configured):  # PortAudio would abort the process
        raise SourceError(
            f"ALSA_CONFIG_PATH names {configured}, which does not exist; unset it or name an existing file"
        )
    try:
        import sounddevice
    except ImportError as error:
        raise SourceError(
            f"sounddevice cannot be imported ({error}); install it: pip install sounddevice"
        ) from error
    except OSError as error:
        raise SourceError(
            "the sound library PortAudio is missing, which microphones need; "
            "install it: sudo apt install libportaudio2 (files, '-' and 'demo' work without it)"
        ) from error
    return sounddevice


def list_devices(sd: Any) -> list[Device]:
    """Return every device that can record."""
    default = -1
    with contextlib.suppress(sd.PortAudioError, ValueError):
        default = sd.query_devices(kind="input")["index"]
    apis = [api["name"] for api in sd.query_hostapis()]
    return [
        Device(
            d["index"],
            d["name"],
            apis[d["hostapi"]],
            d["max_input_channels"],
            round(rate),
            d["index"] == default,
        )
        for d in sd.query_devices()
        if d["max_input_channels"] > 0
        for rate in (d["default_samplerate"],)
    ]


def open_stream(sd: Any, wanted: Wanted) -> tuple[Any, DeviceRing]:
    """Open the device that is wanted at the first rate that it takes; the stream is not started yet."""
    device = choose(list_devices(sd), wanted.device)
    channels = wanted.channels or min(_MAX_CHANNELS, device.max_input_channels)
    if channels > device.max_input_channels:
        raise SourceError(
            f"{device.name!r} has {device.max_input_channels} channels, but channels is {channels}; "
            "configure at most that many, or none for what the device prefers"
        )
    rates = [rate for rate in (wanted.sample_rate, device.default_rate, *_COMMON_RATES) if rate]
    for rate in dict.fromkeys(rates):
        target = DeviceRing(int(rate * _DEVICE_RING_S), channels)
        try:
            return _open_at(sd, device, rate, wanted.block_s, target), target
        except sd.PortAudioError as error:
            if len(error.args) < 2 or error.args[1] != _BAD_RATE:
                raise SourceError(
                    f"{device.name!r} cannot be opened: {error.args[0]}; is it in use elsewhere?"
                ) from error
            os.close(target.wake_fd)
    raise SourceError(
        f"{device.name!r} takes none of the rates {rates} Hz; configure sample_rate as the device has it"
    )


def _open_at(sd: Any, device: Device, rate: int, block_s: float, target: DeviceRing) -> Any:
    return sd.InputStream(
        device=device.number,
        samplerate=rate,
        channels=target.samples.shape[1],
        dtype="float32",
        blocksize=round(block_s * rate),
        latency=block_s,  # more would deliver the blocks in bursts
        callback=target,
        finished_callback=target.finish,
    )


def run(wanted: Wanted) -> NoReturn:
    """Capture until the device is gone, which raises :class:`SourceError`."""
    sd = load_sounddevice()
    ring = SampleRing(wanted.ring_fd)
    stream, target = open_stream(sd, wanted)
    transfer = Transfer(target, ring, round(stream.samplerate), stream.latency)
    try:
        stream.start()
    except sd.PortAudioError as error:
        raise SourceError(
            f"the microphone {wanted.device or 'default'!r} does not start: {error.args[0]}"
        ) from error
    _silence(2)
    ring.header[Slot.RUNNING] = 1
    while not target.finished:
        os.eventfd_read(target.wake_fd)
        transfer.run()
        with contextlib.suppress(BlockingIOError):  # full: the reader will wake all the same
            os.write(wanted.wake_fd, b"\0")
    raise SourceError(f"the microphone {wanted.device or 'default'!r} is gone; plug it in again")


def _silence(fd: int) -> None:
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), fd)


def _end_with_parent() -> None:
    """End this process when the parent closes standard input or dies, even inside PortAudio."""
    while os.read(0, 1):
        pass
    os._exit(0)


def main(arguments: list[str]) -> NoReturn:
    """Run the command line: ``--list``, or the fields of :class:`Wanted` as one JSON object.

    Ends by ``os._exit``, for PortAudio's own end can hang. What fails is one JSON object on standard output.
    """
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print as they like
    try:
        if arguments == ["--list"]:
            signal.alarm(_LIST_LIMIT_S)
            found: Any = [device._asdict() for device in list_devices(load_sounddevice())]
            os.write(answer, json.dumps(found).encode() + b"\n")
            os._exit(0)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        run(Wanted(**json.loads(arguments[0])))
    except SourceError as error:
        os.write(answer, json.dumps({"kind": type(error).__name__, "sentence": str(error)}).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
