"""The checks of the machine around serstream: ports, a running daemon, clock, disk and the systemd service."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from serstream import __version__
from serstream.endpoints import Wire
from serstream.errors import SerstreamError
from serstream.findings import Case, Finding, failure, ok, said, skipped, warning
from serstream.occupancy import daemon, described, holder, is_served
from serstream.service import UNIT, unit_path

UNHEARD = ("lost", "stalled", "failed")
"""States of a source that nothing is heard of, though somebody should see to that."""
LOW_MB, LEAST_MB = 100, 10
_TIME_ERROR = 5
_STEP_S = 0.1
_JUMP_S = 0.02
_COMMAND_LIMIT_S = 5.0
_SHOWN = ("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "StatusText", "WatchdogUSec", "ExecMainStatus")


def running_daemon(case: Case) -> list[Finding]:
    """Whether a daemon answers, and hears what it should."""
    control = case.config.transport.control
    status = daemon(control)
    if status is None:
        return [skipped("daemon", f"none answers at {control}")]
    about = f"serstream {status['version']} (process {status['pid']}) at {control}"
    heard = {name: source["status"] for name, source in status["sources"].items()}
    if status["version"] != __version__:
        return [warning("daemon", f"{about} runs, but this is {__version__}", "start it again")]
    unheard = ", ".join(f"{name} is {how}" for name, how in heard.items() if how in UNHEARD)
    if unheard:
        return [
            warning("daemon", f"{about} hears nothing of some sources: {unheard}", "see the microphone's check above")
        ]
    return [ok("daemon", f"{about}: {', '.join(f'{name} is {how}' for name, how in heard.items())}")]


def ports(case: Case) -> list[Finding]:
    """Whether each endpoint of the configuration is free, or held by the daemon that answers."""
    transport = case.config.transport
    status = daemon(transport.control)
    endpoints = {"events": transport.events, "control": transport.control, "audio": transport.audio}
    return [_port(f"transport.{key}", url, status, case) for key, url in endpoints.items() if url is not None]


def _port(key: str, endpoint: str, status: dict[str, object] | None, case: Case) -> Finding:
    about = f"{key} {endpoint}"
    if not is_served(endpoint):
        return _free(key, endpoint, case)
    pid = holder(endpoint)
    if status is not None and pid in (None, status["pid"]):
        return ok("ports", f"{about} is served by the running daemon, process {status['pid']}")
    silent = ", which does not answer as a daemon of serstream does" if key == "transport.control" else ""
    remedy = f"stop that ({f'kill {pid}' if pid else 'sudo ss -ltnp shows it'}), or configure another {key}"
    return failure("ports", f"{about} is held by {described(pid)}{silent}", remedy)


def _free(key: str, endpoint: str, case: Case) -> Finding:
    """Say whether what nobody serves could be bound."""
    about = f"{key} {endpoint}"
    if endpoint.startswith("ipc://"):  # to bind it would write there
        folder = Path(endpoint.removeprefix("ipc://")).absolute().parent
        if endpoint.startswith("ipc://@") or (folder.is_dir() and os.access(folder, os.W_OK)):
            return ok("ports", f"{about} is free")
        return failure(
            "ports", f"{about} cannot be bound: {folder} is no folder that this user may write", f"mkdir -p {folder}"
        )
    import zmq

    wire = Wire(None)
    try:
        wire.bind(wire.socket(zmq.PUB, {}), endpoint, case.config.transport.insecure, key)
    except SerstreamError as error:
        return said("ports", error)
    finally:
        wire.close()
    return ok("ports", f"{about} is free")


def clock(case: Case) -> list[Finding]:
    """Whether the system's clock is synchronised, and its clocks agree with each other."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if jump_s := _jump_s():
        sentence = (
            f"the system's clock moved by {jump_s:+.2f} s against the monotonic one while {_STEP_S:g} s were waited"
        )
        return [warning("clock", sentence, "timedatectl timesync-status")]
    libc, timex = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(512)
    state = libc.adjtimex(timex)
    if state < 0:
        return [
            skipped("clock", f"whether it is synchronised is not told here ({os.strerror(ctypes.get_errno())}): {now}")
        ]
    if state == _TIME_ERROR:
        sentence = f"the system's clock is not synchronised, so the time in events may be wrong: it is {now}"
        return [warning("clock", sentence, "sudo timedatectl set-ntp true")]
    return [ok("clock", f"synchronised: {now}")]


def _jump_s() -> float:
    """Return by how many seconds wall and monotonic time go apart within a moment; 0 for what reading them explains."""
    first, wall, second = time.monotonic(), time.time(), time.monotonic()
    time.sleep(_STEP_S)
    third, later, fourth = time.monotonic(), time.time(), time.monotonic()
    least, most = third - second - _JUMP_S, fourth - first + _JUMP_S
    lasted = later - wall
    return 0.0 if least <= lasted <= most else lasted - (third - second)


def disk(case: Case) -> list[Finding]:
    """Whether there is space for compiled kernels, profiles and what a capture process has to say."""
    from serstream.profiles import folders

    cache = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent
    return [_space(path) for path in {_mount(Path(p)): p for p in (cache, folders()[0], tempfile.gettempdir())}]


def _mount(path: Path) -> str:
    """Return where the file system of a path, or of what there is of it, is mounted."""
    found = os.path.realpath(path)
    while not os.path.ismount(found):
        found = os.path.dirname(found)
    return found


def _space(path: str) -> Finding:
    found = os.statvfs(path)
    free_mb = found.f_bavail * found.f_frsize // 1_000_000
    full = found.f_files > 0 and found.f_favail == 0
    sentence = f"{path} has {'no inodes' if full else f'{free_mb} MB'} free"
    remedy = f"du -xh {path} | sort -h | tail"
    if full or free_mb < LEAST_MB:
        return failure("disk", sentence, remedy)
    return warning("disk", sentence, remedy) if free_mb < LOW_MB else ok("disk", sentence)


def service(case: Case) -> list[Finding]:
    """How the systemd service is, of the system and of this user, where it is installed."""
    found = [_service(user=user) for user in (False, True) if os.path.exists(unit_path(user=user))]
    return found or [skipped("service", "it is not installed (serstream service install)")]


def _service(*, user: bool) -> Finding:
    scope = ["--user"] if user else []
    if shutil.which("systemctl") is None:
        return skipped("service", f"{unit_path(user=user)} is there, but no systemctl to ask")
    shown, why = _asked(["systemctl", *scope, "show", UNIT, f"--property={','.join(_SHOWN)}"])
    if why:
        return warning("service", f"{unit_path(user=user)} is there, but systemd does not answer: {why}")
    said_last = ""
    if shutil.which("journalctl"):
        logged, _ = _asked(["journalctl", *scope, "--no-pager", "--output=cat", "--lines=100", f"--unit={UNIT}"])
        said_last = next(
            (line for line in reversed(logged.splitlines()) if line.startswith(("serstream: ", "ERROR "))), ""
        )
    return unit_finding(dict(line.partition("=")[::2] for line in shown.splitlines()), said_last, user=user)


def _asked(command: list[str]) -> tuple[str, str]:
    """Return what a command prints, and why it failed, if it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "", f"nothing within {_COMMAND_LIMIT_S:g} s"
    return done.stdout, (" ".join(done.stderr.split()) or f"status {done.returncode}") if done.returncode else ""


def unit_finding(shown: dict[str, str], said_last: str, *, user: bool) -> Finding:
    """Return the finding on a unit from its properties, as ``systemctl show`` names them, and its last error."""
    scope = " --user" if user else ""
    about = f"the {'user' if user else 'system'}'s is {shown.get('ActiveState')} ({shown.get('SubState')})"
    last = f"; its last error: {said_last}" if said_last else ""
    status = shown.get("StatusText", "")
    if shown.get("LoadState") != "loaded":
        sentence = f"{about}: systemd has not loaded the unit ({shown.get('LoadState')})"
        return warning("service", sentence, f"systemctl{scope} daemon-reload")
    if shown.get("ActiveState") == "inactive":
        return warning("service", f"{about}, so nothing is heard{last}", f"systemctl{scope} start serstream")
    if shown.get("ActiveState") != "active":
        sentence = f"{about}: {shown.get('Result')}, exit status {shown.get('ExecMainStatus')}{last}"
        return failure("service", sentence, f"journalctl{scope} -u serstream -n 50")
    if any(word in status for word in UNHEARD):
        return warning("service", f"{about}, but says: {status}", f"journalctl{scope} -u serstream -n 50")
    if (restarts := shown.get("NRestarts", "0")) != "0":
        sentence = f"{about}, started again {restarts} times{last}"
        return warning("service", sentence, f"journalctl{scope} -u serstream -n 50")
    return ok("service", f"{about}, watchdog {shown.get('WatchdogUSec')}: {status}")
