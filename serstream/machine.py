"""The machine that this runs on, as figures and findings name it."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """What was measured on; ``load`` is the mean number of processes that ran or waited in the minute before."""

    cpu: str
    cores: int
    python: str
    architecture: str
    load: float

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, Python {self.python}, {self.architecture}, load {self.load:g}"


def machine() -> Machine:
    """Return this machine."""
    said: dict[str, str] = {}
    with contextlib.suppress(OSError):  # a sandbox may hide it
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    cpu = said.get("model name") or said.get("Model") or "unknown processor"
    load = round(os.getloadavg()[0], 1)
    return Machine(cpu, os.cpu_count() or 1, platform.python_version(), platform.machine(), load)
