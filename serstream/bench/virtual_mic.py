"""A microphone without sound hardware: a private PulseAudio that hears what is played into it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from serstream.errors import SourceError

PROGRAMS = ("pulseaudio", "pactl", "paplay")
PACKAGES = "libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins"
_SINK = "module-null-sink"
_SOURCE = "module-remap-source"
_START_LIMIT_S = 10.0


class VirtualMic:
    """One sound server with one microphone; clients find it through the variables in ``env``.

    PortAudio sees the ALSA devices ``pulse`` and ``default``. What :meth:`play` plays is what they record.

    Attributes
    ----------
    env : dict of str to str
        Environment variables that lead clients to this server and away from any other.
    """

    def __init__(self, sample_rate: int = 48_000, channels: int = 1) -> None:
        self._format = (f"rate={sample_rate}", f"channels={channels}")
        self._channels = channels
        self._folder = Path(tempfile.mkdtemp(prefix="vmic-"))
        self.env = {
            "PULSE_SERVER": f"unix:{self._folder}/native",
            "PULSE_CLIENTCONFIG": f"{self._folder}/client.conf",
            "PULSE_RUNTIME_PATH": f"{self._folder}/run",
            "PULSE_STATE_PATH": f"{self._folder}/state",
            "PULSE_COOKIE": f"{self._folder}/cookie",
            "ALSA_CONFIG_PATH": f"{self._folder}/asound.conf",
        }
        self._configure()
        self._server = self._start()
        self._frozen = False

    @staticmethod
    def missing() -> list[str]:
        """Return the programs that this machine lacks."""
        return [program for program in PROGRAMS if shutil.which(program) is None]

    def _configure(self) -> None:
        (self._folder / "run").mkdir(mode=0o700)
        (self._folder / "state").mkdir()
        (self._folder / "client.conf").write_text("autospawn = no\n")
        # the system's own file first, then ours: "default" may belong to PipeWire there
        (self._folder / "asound.conf").write_text(
            "</usr/share/alsa/alsa.conf>\n"
            'pcm.!default { type pulse hint { show on description "virtual microphone" } }\n'
            "ctl.!default { type pulse }\n"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        # -n: no default script, so neither hardware, D-Bus nor udev has a part in this
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
        command += ["--high-priority=no", "--realtime=no", f"--log-target=file:{self._folder}/log"]
        command += [
            "-L",
            f"module-native-protocol-unix socket={self._folder}/native auth-anonymous=1",
        ]
        server = subprocess.Popen(
            command,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._await_answer(server)
            self.plug()
        except BaseException:
            server.kill()
            server.wait()
            raise
        return server

    def _await_answer(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while self._try("pactl", "info").returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                log = self._folder / "log"
                said = log.read_text().split("\n")[-2:] if log.exists() else ["no log"]
                raise SourceError(f"no virtual microphone: pulseaudio does not start ({said[0]})")
            time.sleep(0.05)  # between two questions; there is no event to wait for

    def _try(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.env}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=10, check=False)

    def _run(self, *command: str) -> None:
        if (done := self._try(*command)).returncode:
            raise SourceError(f"no virtual microphone: {' '.join(command)} failed ({done.stderr.strip()})")

    def plug(self, sample_rate: int | None = None) -> None:
        """Bring the microphone (back), at another rate if one is given."""
        rate = self._format if sample_rate is None else (f"rate={sample_rate}", *self._format[1:])
        # norewinds: an idle null sink else works in blocks of two seconds, and a capture begins that late
        sink = ("sink_name=speaker", "format=s16le", *rate, "norewinds=1")
        self._run("pactl", "load-module", _SINK, *sink)
        channels = f"channels={self._channels}"
        self._run("pactl", "load-module", _SOURCE, "source_name=vmic", "master=speaker.monitor", channels)
        self._run("pactl", "set-default-sink", "speaker")
        self._run("pactl", "set-default-source", "vmic")

    def unplug(self) -> None:
        """Take the microphone away while the server goes on."""
        self._run("pactl", "unload-module", _SOURCE)
        self._run("pactl", "unload-module", _SINK)

    def crash(self) -> None:
        """Kill the server."""
        self._server.kill()
        self._server.wait()

    def restart(self) -> None:
        """Start the server again after :meth:`crash`, with its microphone."""
        self._server = self._start()

    def freeze(self) -> None:
        """Stop the server as if it hung: it answers nobody, and nobody is told."""
        self._server.send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Let the server go on."""
        self._server.send_signal(signal.SIGCONT)
        self._frozen = False

    def play(self, path: Path | str) -> subprocess.Popen[bytes]:
        """Play a sound file (WAV or FLAC) into the microphone; the process ends when it has been played."""
        return subprocess.Popen(
            ["paplay", str(path)],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self._frozen:
            self.thaw()
        self._server.kill()
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
