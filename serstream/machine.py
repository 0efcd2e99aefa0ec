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
    cpuinfo = ""
    with contextlib.suppress(OSError):  # a sandbox may hide it
        cpuinfo = Path("/proc/cpuinfo").read_text()
    load = round(os.getloadavg()[0], 1)
    return Machine(processor(cpuinfo), os.cpu_count() or 1, platform.python_version(), platform.machine(), load)


def processor(cpuinfo: str) -> str:
    """Return the processor that Linux describes in /proc/cpuinfo.

    Family and model stand behind the name, where there are any: virtual machines give several generations one name.
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    said = {key.strip(): value.strip() for key, _, value in lines}
    name = said.get("model name") or said.get("Model") or "unknown processor"
    return f"{name} (family {said['cpu family']}, model {said['model']})" if "cpu family" in said else name
