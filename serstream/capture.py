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
import traceback
from typing import Any, NamedTuple, NoReturn

from serstream.errors import NoMicrophoneError, SourceError
from serstream.identity import identities
from serstream.ring import SampleRing
from serstream.transfer import DeviceRing, Transfer

_BAD_RATE = -9997
_COMMON_RATES = (48_000, 44_100, 16_000)
_ASKED_RATES = (8_000, 16_000, 32_000, 44_100, 48_000, 96_000)
_DEVICE_RING_S = 10.0
_MAX_CHANNELS = 2
_LIST_LIMIT_S = 30


class Device(NamedTuple):
    """A device that can record.

    ``default_rate`` is in Hz; ``number`` is good for one process alone; ``identities`` are names that stay when it is
    plugged in again, the best first, as far as the system tells.
    """

    number: int
    name: str
    host_api: str
    max_input_channels: int
    default_rate: int
    is_default: bool
    identities: tuple[str, ...] = ()

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
    silence_s: float | None


def choose(found: list[Device], pattern: str) -> Device:
    """Return the device with this identity, or the first whose name, or else an identity, matches it as a pattern.

    Patterns are regular expressions, the case does not matter, and the empty one is the system's default.

    Raises
    ------
    NoMicrophoneError
        If the machine has none at all.
    SourceError
        If none matches; the sentence lists what there is.
    """
    if not pattern:
        fitting = [device for device in found if device.is_default]
    else:
        fitting = [device for device in found if pattern in device.identities]
        fitting += [device for device in found if re.search(pattern, device.name, re.IGNORECASE)]
        fitting += [d for d in found if any(re.search(pattern, name, re.IGNORECASE) for name in d.identities)]
    if fitting:
        return fitting[0]
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
        raise SourceError(f"sounddevice cannot be imported ({error}); install it: pip install sounddevice") from error
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
            tuple(identities(d["name"])),
        )
        for d in sd.query_devices()
        if d["max_input_channels"] > 0
        for rate in (d["default_samplerate"],)
    ]


def library(sd: Any) -> dict[str, str]:
    """Return the versions of PortAudio and of sounddevice."""
    return {"portaudio": sd.get_portaudio_version()[1].partition(",")[0], "sounddevice": sd.__version__}


def list_rates(sd: Any, pattern: str, channels: int | None, rate: int | None) -> list[int]:
    """Return which of the common rates, and of ``rate``, the device takes that a source would use, in Hz."""
    device = choose(list_devices(sd), pattern)
    taken = []
    for asked in sorted({*_ASKED_RATES, device.default_rate, rate or device.default_rate}):
        with contextlib.suppress(sd.PortAudioError):
            sd.check_input_settings(device.number, channels or 1, "float32", samplerate=asked)
            taken.append(asked)
    return taken


def _answer(question: str, *details: Any) -> Any:
    """Answer what is asked in the place of a device to capture from."""
    sd = load_sounddevice()
    if question == "--list":
        return [device._asdict() for device in list_devices(sd)]
    return library(sd) if question == "--library" else list_rates(sd, *details)


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
    raise SourceError(f"{device.name!r} takes none of the rates {rates} Hz; configure sample_rate as the device has it")


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
    transfer = Transfer(target, ring, round(stream.samplerate), stream.latency, wanted.silence_s)
    try:
        stream.start()
    except sd.PortAudioError as error:
        raise SourceError(f"the microphone {wanted.device or 'default'!r} does not start: {error.args[0]}") from error
    _silence(2)
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
    """Run the command line: a question, or the fields of :class:`Wanted` as one JSON object.

    The questions are ``--list``, ``--library`` and ``--rates`` with the arguments of :func:`list_rates`, each as JSON.

    Ends by ``os._exit``, for PortAudio's own end can hang. What fails is one JSON object on standard output.
    """
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print as they like
    try:
        if arguments[0].startswith("--"):
            signal.alarm(_LIST_LIMIT_S)
            found = _answer(arguments[0], *map(json.loads, arguments[1:]))
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
