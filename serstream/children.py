"""How a process of this package, a module of it in a session of its own, is started and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

END_LIMIT_S = 0.2


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of the package."""
    return [sys.executable, "-P", "-m", f"serstream.{module}", *arguments]


def environment() -> dict[str, str]:
    """Return ours, with this package on the path: ``-P`` leaves the working folder out."""
    root = str(Path(__file__).parent.parent)
    paths = [path for path in (os.environ.get("PYTHONPATH"), root) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def apart(*fds: int) -> dict[str, Any]:
    """Return what ``Popen`` needs for a child that inherits these descriptors."""
    # a session of its own: Ctrl-C in a terminal is the parent's to obey
    return {"env": environment(), "pass_fds": fds, "start_new_session": True}


def end(process: subprocess.Popen[bytes]) -> str:
    """Let a process end that is about to, or else kill it, within twice ``END_LIMIT_S``; return how it ended."""
    for _ in range(2):
        with suppress(subprocess.TimeoutExpired):
            return _how(process.wait(END_LIMIT_S))
        process.kill()
    return "does not die, and is left behind"


def _how(status: int) -> str:
    return (
        f"was ended by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"ended with status {status}"
    )
