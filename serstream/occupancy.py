"""Who listens at an endpoint: a process, and whether it is a daemon of serstream that answers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from pathlib import Path
from typing import Any

from serstream.endpoints import dial
from serstream.errors import SerstreamError
from serstream.findings import Case
from serstream.transport import request

_CONNECT_LIMIT_S = 1.0
_ANSWER_LIMIT_S = 2.0
_LISTENING = "0A"


def daemon(case: Case) -> dict[str, Any] | None:
    """Return what the daemon of a configuration says of itself, None where none answers within two seconds.

    Raises
    ------
    SerstreamError
        If there is a key, and no answer to it.
    """
    control = case.config.transport.control
    if case.needs_key or not is_served(control):
        return None
    try:
        answer = request(control, "status", _ANSWER_LIMIT_S, key=case.keys.key, server_key=case.keys.server_key)
    except SerstreamError:
        if case.keys.key is not None:
            raise
        return None
    known = isinstance(answer, dict) and {"pid", "version", "sources"} <= answer.keys()
    return answer if known else None


def is_served(endpoint: str) -> bool:
    """Return whether somebody listens at ``tcp://HOST:PORT`` or ``ipc://PATH``."""
    with contextlib.suppress(OSError, ValueError), dial(endpoint, _CONNECT_LIMIT_S):  # the port may be *
        return True
    return False


def holder(endpoint: str) -> int | None:
    """Return the process that listens at an endpoint; None where there is none, or it is not ours to see."""
    if not endpoint.startswith("tcp://"):
        with contextlib.suppress(OSError), dial(endpoint, _CONNECT_LIMIT_S) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", credentials)[0]) or None
        return None
    inodes = _listening_at(int(endpoint.rpartition(":")[2]))
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return next((pid for pid in pids if inodes & _sockets_of(pid)), None)


def described(pid: int | None) -> str:
    """Name a process in words."""
    if pid is None:
        return "a process that this user may not see"
    with contextlib.suppress(OSError):
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (process {pid})"
    return f"process {pid}"


def _listening_at(port: int) -> set[str]:
    """Return the inodes of the sockets that listen at a TCP port, from proc(5)'s tables."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _sockets_of(pid: int) -> set[str]:
    """Return the inodes of the sockets of a process, empty for one that has ended or may not be looked at."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found |= set(re.findall(r"^socket:\[(\d+)\]$", os.readlink(f"/proc/{pid}/fd/{descriptor}")))
    return found
