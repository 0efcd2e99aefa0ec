"""The checks of what sound comes through: library, server, cards, microphones, and what they bring."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serstream.capture import Device, choose
from serstream.capture_process import START_LIMIT_S, CaptureProcess, devices, library, rates
from serstream.config import SAMPLE_RATE, MicrophoneSource
from serstream.errors import SourceError
from serstream.findings import Case, Finding, failure, ok, said, skipped, warning
from serstream.loudness import fault, level_dbfs
from serstream.occupancy import daemon, is_served
from serstream.ring import Slot
from serstream.service import unit_path

LISTEN_S = 2.0
_SETTLE_S = 0.25
"""What a device brings first may be of its opening alone."""
_CARDS = Path("/dev/snd")


def sound_library(case: Case) -> list[Finding]:
    """Whether PortAudio starts, in a process of its own."""
    try:
        versions = library()
    except SourceError as error:
        return [said("sound library", error)]
    return [ok("sound library", f"{versions['portaudio']}, through sounddevice {versions['sounddevice']}")]


def sound_server(case: Case) -> list[Finding]:
    """Whether a sound server of this user's session answers, and whom that helps."""
    name = "sound server"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    served = _servers()
    if not served:
        where = f"in XDG_RUNTIME_DIR, {runtime}" if runtime else "for XDG_RUNTIME_DIR is not set"
        if _inputs(_CARDS):
            return [ok(name, f"none is found {where}: sound cards are opened through ALSA")]
        session = f"/run/user/{os.geteuid()}"
        remedy = "systemctl --user start pipewire-pulse"
        if not runtime and os.path.isdir(session):
            remedy = f"export XDG_RUNTIME_DIR={session}"
        return [warning(name, f"neither PulseAudio nor PipeWire is found {where}, and there is no sound card", remedy)]
    owner = f"a session of user {_user()}" if runtime else "whoever started it"
    what = f"{' and '.join(served)} {'answer' if len(served) > 1 else 'answers'}"
    if unit_path(user=False).exists() and not _inputs(_CARDS):
        return [
            warning(
                name,
                f"{what}, but to {owner} alone: the service of the system, which is installed, cannot use it",
                "serstream service install --user",
            )
        ]
    return [ok(name, f"{what}, for {owner}; a service of the system needs ALSA instead")]


def _servers() -> list[str]:
    """Return the sound servers that take a connection, and where."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    pulse = os.environ.get("PULSE_SERVER") or f"unix:{runtime}/pulse/native"
    pipewire = os.environ.get("PIPEWIRE_RUNTIME_DIR") or runtime
    paths = {"PulseAudio's": pulse.removeprefix("unix:"), "PipeWire's": f"{pipewire}/pipewire-0"}
    found = [
        f"{whose} socket {path}" for whose, path in paths.items() if path.startswith("/") and is_served(f"ipc://{path}")
    ]
    return found if pulse.startswith(("unix:", "/")) else [*found, f"PulseAudio at {pulse} (PULSE_SERVER)"]


def _inputs(folder: Path) -> list[Path]:
    """Return the devices of sound cards that record."""
    return sorted(folder.glob("pcmC*D*c"))


def sound_cards(case: Case, folder: Path = _CARDS) -> list[Finding]:
    """Whether this user may open the sound cards that there are."""
    name = "sound cards"
    inputs = _inputs(folder)
    served = _servers()
    if not inputs and served:
        return [ok(name, f"none that records in {folder}: what the sound server has is used")]
    if not inputs:
        remedy = "plug in a microphone; a container needs --device /dev/snd"
        return [warning(name, f"there is none that records in {folder}", remedy)]
    closed = [path for path in inputs if not os.access(path, os.R_OK | os.W_OK)]
    if not closed:
        return [ok(name, f"{len(inputs)} can record, and this user may open them")]
    group = _group(closed[0])
    sentence = f"user {_user()} may not open {closed[0]}, which belongs to group {group}"
    if served:
        return [ok(name, f"{sentence}; the sound server does that")]
    if _user() in _members(group):
        return [failure(name, f"{sentence}, and is in it only from the next login on", "log out, and in again")]
    return [failure(name, sentence, f"sudo usermod -aG {group} {_user()}, then log out and in again")]


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def microphone(case: Case) -> list[Finding]:
    """Whether each microphone of the configuration is there."""
    try:
        found = devices()
    except SourceError as error:
        return [said("microphone", error)]
    return [_chosen(found, source_id, source.device) for source_id, source in case.microphones.items()]


def _chosen(found: list[Device], source_id: str, pattern: str) -> Finding:
    try:
        device = choose(found, pattern)
    except SourceError as error:
        return said("microphone", error, f"{source_id}: ")
    about = f"{device.host_api}, {device.max_input_channels} channels, {device.default_rate} Hz"
    return ok("microphone", f"{source_id}: {device.stable_name!r} ({about})")


def sample_rates(case: Case) -> list[Finding]:
    """Which sample rates the microphones take."""
    found = []
    for source_id, source in case.microphones.items():
        try:
            found.append(rated(source_id, source.sample_rate, rates(source)))
        except SourceError as error:
            found.append(said("sample rates", error, f"{source_id}: "))
    return found


def rated(source_id: str, wanted: int | None, taken: list[int]) -> Finding:
    """Return the finding on the rates that a device takes, all in Hz; ``wanted`` is the configured one."""
    listed = ", ".join(map(str, taken))
    if not taken:
        sentence, remedy = f"{source_id}: the device takes no common rate", "set sample_rate as the device has it"
        return failure("sample rates", sentence, remedy)
    if wanted is not None and wanted not in taken:
        sentence = f"{source_id}: sample_rate is {wanted}, but the device takes {listed} Hz, one of which is used"
        return warning("sample rates", sentence, "set sample_rate to null")
    return ok("sample rates", f"{source_id}: {listed} Hz")


def capture(case: Case) -> list[Finding]:
    """Whether each microphone brings sound that can be heard, by two seconds of it."""
    running = daemon(case.config.transport.control) or {"sources": {}}
    found = []
    for source_id, source in case.microphones.items():
        status = running["sources"].get(source_id, {}).get("status")
        if status == "muted":
            found.append(skipped("capture", f"{source_id}: is muted in the running daemon (serstream unmute)"))
            continue
        try:
            found.append(judged(source_id, record(source)))
        except SourceError as error:
            if status == "running":  # many devices can be opened once only
                found.append(ok("capture", f"{source_id}: the running daemon, process {running['pid']}, hears it"))
            else:
                found.append(said("capture", error, f"{source_id}: "))
    return found


def record(config: MicrophoneSource) -> NDArray[np.float32]:
    """Return ``LISTEN_S`` seconds of a microphone at ``SAMPLE_RATE``, captured in a process of its own.

    Raises
    ------
    SourceError
        If the device cannot be opened, ends, or has not brought so much within ``START_LIMIT_S`` and twice the time.
    """
    wanted, settle = round(LISTEN_S * SAMPLE_RATE), round(_SETTLE_S * SAMPLE_RATE)
    limit_s = START_LIMIT_S + 2 * LISTEN_S
    end_s = time.monotonic() + limit_s
    process = CaptureProcess(config)
    try:
        while (captured := process.ring.header[Slot.WRITE]) < settle + wanted:
            if process.ended:
                raise SourceError(process.last_words())
            if (left_s := end_s - time.monotonic()) <= 0:
                raise SourceError(
                    f"the device brought {captured / SAMPLE_RATE:.1f} s of sound in {limit_s:g} s; "
                    "plug it in again, or restart the sound server: systemctl --user restart pipewire pulseaudio"
                )
            process.wait(left_s)
        return process.ring.read(settle + wanted)[1][settle:]
    finally:
        process.close()


def judged(source_id: str, samples: NDArray[np.float32]) -> Finding:
    """Return the finding on what was recorded."""
    heard = f"{source_id}: {samples.size / SAMPLE_RATE:.1f} s"
    peak = float(np.abs(samples).max())
    match fault(samples):
        case "silent":
            sentence = (
                f"{heard} are digital silence, every sample 0: the microphone is muted, or there is none behind it"
            )
            return failure("capture", sentence, _mixer("set-source-mute @DEFAULT_SOURCE@ 0", "sset Capture cap"))
        case "stuck":
            sentence = f"{heard} are stuck at {float(samples.mean()):.3g}: the device is open, but hears nothing"
            return failure("capture", sentence, "plug it in again")
        case "clipped":
            sentence = f"{heard} are clipped, at full scale again and again: the gain is too high"
            return warning("capture", sentence, _mixer("set-source-volume @DEFAULT_SOURCE@ 50%", "sset Capture 50%"))
        case "low":
            sentence = f"{heard} are very quiet, {level_dbfs(samples):.0f} dBFS: a voice may not be heard"
            return warning("capture", sentence, _mixer("set-source-volume @DEFAULT_SOURCE@ 100%", "sset Capture 90%"))
    return ok("capture", f"{heard} at {level_dbfs(samples):.0f} dBFS, peak {20 * np.log10(peak):.0f} dBFS")


def _mixer(pactl: str, amixer: str) -> str:
    return f"pactl {pactl}" if shutil.which("pactl") else f"amixer {amixer}"
