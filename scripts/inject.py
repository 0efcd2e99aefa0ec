"""Inject faults, each many times, and show how soon each was noticed and over. ``sh scripts/faults`` runs this.

What a daemon suffers is injected into a running one with a real sound server, and timed. What a device does
(``device_...``) is played by a microphone that goes wrong as a seed says; its time is its schedule's, and not measured.
In the end every sample must have been heard, or counted in a gap that was announced and is over.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import statistics
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from faulty import ANNOUNCED, survive
from injected import FAULTS, NOTICED_S, Fault
from rich.console import Console
from rich.table import Table
from rig import Measured, Rig
from writable import check_writable

from serstream.bench.virtual_mic import PACKAGES, VirtualMic
from serstream.faults import KINDS
from serstream.machine import machine

SCHEMA = "serstream-faults/1"
TESTS = Path(__file__).parent.parent / "tests"
OF_DEVICES = {f"device_{kind}": kind for kind in KINDS if kind != "sound"}


class Row(NamedTuple):
    """What became of one kind of fault, and the most seconds that it may take; ``failure`` is why it was given up."""

    name: str
    times: int
    back_s: float
    found: list[Measured]
    failure: str | None = None

    @property
    def late(self) -> int:
        """How many were noticed, or over, too late."""
        return sum((f.noticed_s or 0.0) > NOTICED_S or (f.back_s or 0.0) > self.back_s for f in self.found)

    def seconds(self, field: str) -> dict[str, float] | None:
        """Return median and maximum of what was measured."""
        values = [value for found in self.found if (value := getattr(found, field)) is not None]
        return {"median": round(statistics.median(values), 3), "max": round(max(values), 3)} if values else None

    def announced(self) -> dict[str, int]:
        """Return how often it was announced as what."""
        return dict(Counter(found.announced for found in self.found if found.announced))

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON has it."""
        return {
            "name": self.name,
            "times": self.times,
            "survived": len(self.found),
            "late": self.late,
            "announced": self.announced(),
            "noticed_s": self.seconds("noticed_s"),
            "back_s": self.seconds("back_s"),
            "failure": self.failure,
        }


@contextmanager
def suffering(fault: Fault, seed: int) -> Iterator[Callable[[int], Measured]]:
    """Run a daemon with a sound server for a fault; at the end all must be accounted for."""
    mic = VirtualMic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as folder,
            Rig(Path(folder), fault.config, mic, seed) as rig,
        ):
            yield lambda _: rig.inject(fault.inject)
            rig.end()
    finally:
        mic.stop()


@contextmanager
def played(name: str, seed: int) -> Iterator[Callable[[int], Measured]]:
    """Let a device that is made up have the fault, every time of another length."""

    def play(time: int) -> Measured:
        kind = OF_DEVICES[name]
        announced = survive(kind, seed + time)
        assert announced == ANNOUNCED.get(kind), f"announced as {announced}"
        return Measured(announced)

    yield play


def inject(name: str, times: int, seed: int) -> Row:
    """Inject a fault so many times, or until it is not survived."""
    fault = FAULTS.get(name)
    row = Row(name, times, fault.back_s if fault else 0.0, [])
    try:
        with suffering(fault, seed) if fault else played(name, seed) as happen:
            for time in range(times):
                row.found.append(happen(time))
    except Exception as error:  # whatever it was, the others are still to be injected
        return row._replace(failure=sentence(error))
    return row


def sentence(error: Exception) -> str:
    """Say what failed, and where."""
    here = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == TESTS]
    where = f"{here[-1].name}, line {here[-1].lineno} of {Path(here[-1].filename).name}: " if here else ""
    return f"{where}{str(error) or (here[-1].line if here else repr(error))}"


def table(rows: list[Row], title: str) -> Table:
    """Return what people read."""
    shown = Table("fault", title=title, title_justify="left", box=None, pad_edge=False)
    for head in ("survived", "announced as", "noticed s: median, max", "back s: median, max"):
        shown.add_column(head, justify="left" if head == "announced as" else "right")
    for row in rows:
        times = [f"{s['median']:.2f}  {s['max']:.2f}" if s else "" for s in map(row.seconds, ("noticed_s", "back_s"))]
        shown.add_row(row.name, f"{len(row.found)}/{row.times}", ", ".join(row.announced()), *times)
    return shown


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    names = [*FAULTS, *OF_DEVICES]
    parser = argparse.ArgumentParser(prog="sh scripts/faults", description=(__doc__ or "").split(" ``sh")[0])
    parser.add_argument("--times", type=int, default=20, metavar="N", help="each so often, 1 to 1000 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of moments and lengths, from 0 (%(default)s)")
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, too")
    args = parser.parse_args()
    if not 1 <= args.times <= 1000 or args.seed < 0:
        parser.error(f"--times {args.times} --seed {args.seed}; times are 1 to 1000, a seed is 0 or more")
    if unknown := [name for name in args.only if name not in names]:
        parser.error(f"{unknown[0]} is no fault; name some of {', '.join(names)}")
    if (missing := VirtualMic.missing()) and any(name in FAULTS for name in args.only):
        parser.error(f"no {', '.join(missing)}; install them: sudo apt install {PACKAGES}, or name device_... faults")
    check_writable(parser, args.json)
    return args


def main() -> int:
    """Inject, show, write; return 1 if one was not survived, took too long or was not reached."""
    args, here = arguments(), machine()
    logging.getLogger("serstream").setLevel(logging.ERROR)  # that devices go wrong is no news here
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as nohup has it; the daemons that are started shall heed it
        signal.signal(signal.SIGHUP, lambda *_: None)
    rows: list[Row] = []
    with suppress(KeyboardInterrupt):  # what was found until then is shown
        for number, name in enumerate(args.only, 1):
            print(f"{number}/{len(args.only)} {name}", file=sys.stderr, flush=True)
            rows.append(inject(name, args.times, args.seed))
    wide = Console(width=None if sys.stdout.isatty() else 160)
    wide.print(table(rows, f"{here}, seed {args.seed}"))
    for row in rows:
        if row.failure:
            wide.print(f"{row.name} was not survived: {row.failure}", markup=False)
        if row.late:
            limits = f"{NOTICED_S:g} s to be noticed and {row.back_s:g} s to be back"
            wide.print(f"{row.name} took longer than {limits} {row.late} times of {row.times}", markup=False)
    if args.json:
        found = {"schema": SCHEMA, "seed": args.seed, "machine": msgspec.to_builtins(here)}
        args.json.write_text(json.dumps(found | {"faults": [row.as_dict() for row in rows]}, indent=1) + "\n")
    return int(len(rows) < len(args.only) or any(row.failure or row.late for row in rows))


if __name__ == "__main__":
    sys.exit(main())
