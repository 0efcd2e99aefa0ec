"""What one run of ``serstream bench`` found: run, printed for people, or one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

from serstream.bench.measuring import FULL, QUICK, Figure, NotHereError
from serstream.bench.peers import PEERS
from serstream.bench.registry import Measure
from serstream.errors import SourceError
from serstream.machine import Machine, machine

PIPE_WIDTH = 160


class Results(msgspec.Struct, frozen=True):
    """All figures by name; ``missing`` says of each measure that could not be had here why."""

    machine: Machine
    quick: bool
    figures: dict[str, Figure]
    missing: dict[str, str]
    not_installed: list[str]
    schema: Literal["serstream-bench/1"] = "serstream-bench/1"


def run(measures: Mapping[str, Measure], *, quick: bool) -> Results:
    """Measure one after another; on a terminal standard error says what."""
    here, found = machine(), []
    missing: dict[str, str] = {}
    with Console(stderr=True).status("") as status:
        for name, measure in measures.items():
            status.update(f"measuring {name}")
            try:
                found += measure(QUICK if quick else FULL)
            except (SourceError, NotHereError) as error:
                missing[name] = str(error)
    absent = [peer for peer in PEERS if find_spec(peer) is None]
    return Results(here, quick, {f.name: f for f in found}, missing, absent)


def show(results: Results) -> None:
    """Print a table."""
    table = Table(title=str(results.machine), title_justify="left", box=None, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("half of the turns", justify="right", no_wrap=True)
    table.add_column("turns", justify="right")
    table.add_column("of what", style="dim")
    for f in results.figures.values():
        table.add_row(f.name, f"{f.median:g}", f.unit, f"{f.spread[0]:g} to {f.spread[1]:g}", str(f.n), f.about)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)
    for name, why in results.missing.items():
        console.print(f"{name} could not be measured: {why}", soft_wrap=True, highlight=False)
    if results.not_installed:
        names = ", ".join(results.not_installed)
        console.print(f"not installed, so not beside ours: {names} (extra \\[bench])", soft_wrap=True, highlight=False)
    if results.quick:
        console.print("--quick: few turns, and short ones; figures to trust come without it")
