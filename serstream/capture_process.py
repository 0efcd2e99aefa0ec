"""One capture process, as its parent sees it: started, waited for, killed; and the list of devices from another."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import time
from typing import IO, Any

from serstream.capture import Device, Wanted
from serstream.children import apart, command, environment
from serstream.config import SAMPLE_RATE, MicrophoneSource
from serstream.errors import SourceError
from serstream.ring import SampleRing, Slot

_log = logging.getLogger(__name__)

RING_S = 10.0
KEEP_S = 0.25
"""After an overrun the reader goes on with the newest quarter of a second."""
START_LIMIT_S = 10.0
"""A capture process that delivers nothing for this long after its start is replaced."""
_LIST_LIMIT_S = 5.0
_KILL_LIMIT_S = 1.0


def hardware_ns() -> int:
    """Return when a sound card last came or went, 0 where the system does not tell."""
    try:
        return os.stat("/dev/snd").st_mtime_ns
    except OSError:
        return 0


def devices() -> list[Device]:
    """Return the devices that can record, as a fresh process sees them.

    Raises
    ------
    SourceError
        If PortAudio is missing, or has not answered within five seconds.
    """
    return [Device(**fields) for fields in _ask("--list")]


def library() -> dict[str, str]:
    """Return the versions of PortAudio and sounddevice; raises as :func:`devices`."""
    return dict(_ask("--library"))


def rates(config: MicrophoneSource) -> list[int]:
    """Return which common rates the device of a source takes, in Hz, and its own where it takes that.

    Raises
    ------
    SourceError
        As :func:`devices`, or if there is no such device.
    """
    details = (config.device, config.channels, config.sample_rate)
    return list(_ask("--rates", *map(json.dumps, details)))


def _ask(*question: str) -> Any:
    try:
        done = subprocess.run(
            command("capture", *question), capture_output=True, timeout=_LIST_LIMIT_S, env=environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"the sound system has not answered within {_LIST_LIMIT_S:g} s; restart its server, for example: "
            "systemctl --user restart pipewire pulseaudio"
        ) from error
    _log_noise(done.stderr)
    if done.returncode:
        raise SourceError(_sentence(done.stdout, done.returncode))
    return json.loads(done.stdout)


def _sentence(answer: bytes, status: int | None) -> str:
    """Read what a capture process said on its standard output before it ended."""
    try:
        return str(json.loads(answer)["sentence"])
    except (ValueError, KeyError, TypeError):
        if status is not None and status < 0:
            return (
                f"the capture process was ended by signal {-status} ({signal.strsignal(-status)}); if that goes on, "
                "check the sound configuration: ALSA_CONFIG_PATH, ~/.asoundrc and /etc/asound.conf"
            )
        return f"the capture process ended with status {status}; log_level debug shows what it printed"


def _log_noise(noise: bytes) -> None:
    if noise.strip():
        _log.debug("capture process: %s", noise.decode(errors="replace").strip())


class CaptureProcess:
    """One capture process, its ring and the pipe that it wakes us by; for one thread, but :meth:`kill`."""

    def __init__(self, config: MicrophoneSource, ring_s: float = RING_S) -> None:
        self.started_s = time.monotonic()
        self.ring = SampleRing.create(int(ring_s * SAMPLE_RATE), SAMPLE_RATE, keep=int(KEEP_S * SAMPLE_RATE))
        self._wake_fd, poke_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._abandoned = False
        noise = os.memfd_create("serstream-notes")
        self._noise: IO[bytes] = open(noise, "w+b")  # noqa: SIM115 - lives as long as the process
        c = config
        wanted = Wanted(self.ring.fd, poke_fd, c.device, c.sample_rate, c.channels, c.block_s, c.silence_s)
        try:
            self._process = subprocess.Popen(
                command("capture", json.dumps(wanted._asdict())),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                **apart(self.ring.fd, poke_fd),
            )
        finally:
            os.close(poke_fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._abandoned or self._process.poll() is not None

    def silent_s(self) -> float:
        """Return the seconds since the device's last callback, or since the time allowed for a start."""
        heartbeat_s = self.ring.header[Slot.HEARTBEAT_NS] / 1e9
        return time.monotonic() - (heartbeat_s or self.started_s + START_LIMIT_S)

    def wait(self, timeout_s: float) -> None:
        """Return when the process has written, has ended, or the time is up."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        if poll.poll(timeout_s * 1000) and not os.read(self._wake_fd, 65536):
            self.reap()

    def kill(self) -> None:
        """End the process at once, whatever it hangs in; may be called from any thread."""
        self._process.kill()

    def reap(self) -> None:
        """Wait until the killed or ended process is gone; bounded."""
        try:
            self._process.wait(_KILL_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._abandoned = True
            _log.warning("capture process %d does not die; it is left behind", self.pid)

    def last_words(self) -> str:
        """Return why an ended process ended, in a sentence."""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._noise.seek(0)
        _log_noise(self._noise.read())
        return _sentence(self._process.stdout.read() or b"", self._process.returncode)

    def close(self) -> None:
        """Kill the process and release everything."""
        self.kill()
        self.reap()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._noise.close()
        os.close(self._wake_fd)
        self.ring.close()
