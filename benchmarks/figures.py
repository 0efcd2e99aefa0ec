"""What every benchmark shares: repetition with spread, the machine's name, one way to print."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPETITIONS = 9


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def interleaved(works: Mapping[str, Callable[[], float]]) -> dict[str, dict[str, float]]:
    """Return median and spread of what each of ``works`` measures, taken in turns after a run that does not count.

    What slows the machine for a while then slows all of them.
    """
    runs = [{name: work() for name, work in works.items()} for _ in range(REPETITIONS + 1)]
    return {name: spread([run[name] for run in runs[1:]]) for name in works}


def ratio(cost: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """Return the ratio of the medians; its spread is that of the extremes, which may not have met in one run."""
    return {
        "median": cost["median"] / own["median"],
        "min": cost["min"] / own["max"],
        "max": cost["max"] / own["min"],
    }


def machine() -> str:
    """Return what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"


def show(figures: Mapping[str, dict[str, Any]], absent: Sequence[str] = (), *, as_json: bool) -> None:
    """Print figures of ``median``, ``min``, ``max`` and ``unit`` as a table, or everything as one JSON object.

    ``absent`` names the libraries that are not installed.
    """
    figures = {name: {k: v if k == "unit" else round(v, 4) for k, v in f.items()} for name, f in figures.items()}
    if as_json:
        print(json.dumps({"machine": machine(), "figures": figures, "not_installed": list(absent)}))
        return
    print(machine())
    width = max(map(len, figures))
    for name, f in figures.items():
        print(f"{name:{width}} {f['median']:9.4g} {f['unit']:13} ({f['min']:.4g} to {f['max']:.4g})")
    for name in absent:
        print(f"{name} is not installed")
