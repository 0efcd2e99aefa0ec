"""A daemon as a process: started, awaited and ended; and what a process and its descendants use."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from serstream.bench.cores import only_on
from serstream.children import environment
from serstream.errors import SerstreamError

COMMAND = (sys.executable, "-P", "-m", "serstream")
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0


class Running(NamedTuple):
    """A daemon that serves: its process, endpoints and log, and how many seconds it took from its start to here."""

    process: subprocess.Popen[bytes]
    events: str
    control: str
    log: Path
    ready_s: float

    def said(self) -> list[str]:
        """Return the lines of its log; what goes as it should is not in it."""
        return self.log.read_text(errors="replace").splitlines()


@contextmanager
def daemon(
    sources: Mapping[str, Mapping[str, Any]],
    env: Mapping[str, str] | None = None,
    *,
    audio: str | None = None,
    cores: set[int] | None = None,
) -> Iterator[Running]:
    """Run a daemon until the end of the block.

    Parameters
    ----------
    sources : mapping
        As in the configuration; standard input is a pipe.
    env : mapping of str to str, optional
        What its environment has besides ours.
    audio : str, optional
        ``transport.audio``, where the network's sound comes in.
    cores : set of int, optional
        Where alone it runs with all that it starts.

    Raises
    ------
    SerstreamError
        If it ends, or has not said within a minute that it serves.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events, control = f"ipc://{folder}/events", f"ipc://{folder}/control"
        config = folder / "config.yaml"  # JSON is YAML
        transport = {"events": events, "control": control, "audio": audio}
        config.write_text(json.dumps({"sources": sources, "transport": transport, "log_level": "warning"}))
        with (folder / "log").open("wb") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(folder / "manager"))
            started_s = time.monotonic()
            with only_on(cores):
                process = subprocess.Popen(
                    [*COMMAND, "run", "--config", str(config)],
                    env={**environment(), **(env or {}), "NOTIFY_SOCKET": str(folder / "manager")},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            try:
                _await_ready(process, manager, folder / "log")
                manager.close()  # or what nobody reads would make the daemon wait
                yield Running(process, events, control, folder / "log", time.monotonic() - started_s)
            finally:
                _end(process)


def _await_ready(process: subprocess.Popen[bytes], manager: socket.socket, log: Path) -> None:
    manager.settimeout(0.2)
    end_s = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            if manager.recv(4096).startswith(b"READY=1"):
                return
        except TimeoutError:
            continue
    said = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    raise SerstreamError(f"the daemon that was to be measured did not start ({said}); try `serstream run`")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [pid, *(p for child in direct for p in tree(child))]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and its descendants have used."""
    return sum(time.clock_gettime((~p << 3) | 2) for p in tree(pid))  # the clock of a process: clock_getcpuclockid(3)


def memory_mb(pid: int, kind: str = "Pss") -> float:
    """Return the memory of a process and its descendants in megabytes (10^6 bytes): proportional, or of another kind.

    ``kind`` is a field of ``/proc/PID/smaps_rollup``.
    """
    rows = (row for p in tree(pid) for row in Path(f"/proc/{p}/smaps_rollup").read_text().splitlines())
    return sum(int(row.split()[1]) for row in rows if row.startswith(f"{kind}:")) * 1024 / 1e6
