"""Give what reads bytes from outside inputs of any kind, for minutes each. ``sh scripts/fuzz`` runs this.

The targets of ``tests/fuzzed.py`` are fuzzed by atheris, which follows how far into the code an input leads; then each
reads all that led somewhere again, mutated too, and its memory must not grow. ``hypothesis`` runs the tests of the
strategies in ``tests/test_fuzz.py`` again and again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from fuzzed import TARGETS, inputs
from memory import FLAT_MB
from rich.console import Console
from rich.table import Table
from writable import check_writable

from serstream.machine import machine

SCHEMA = "serstream-fuzz/1"
HYPOTHESIS = "hypothesis"
NAMES = [*TARGETS, HYPOTHESIS]
HERE = Path(__file__).parent
WORDS = 3000


class Row(NamedTuple):
    """What became of a target; ``inputs`` of hypothesis are runs, ``failure`` is the end of what its process said."""

    name: str
    inputs: int = 0
    kept: int = 0
    growth_mb: float | None = None
    failure: str | None = None


def fuzz(name: str, minutes: float, folder: Path) -> Row:
    """Fuzz a target in a process of its own, for a native reader may die; then let another read what was kept."""
    corpus, said = folder / name, folder / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    one, limit_s = str(HERE / "fuzz_one.py"), max(1, round(60 * minutes))
    failure = run(said, one, "fuzz", name, str(corpus), f"-artifact_prefix={corpus}-", f"-max_total_time={limit_s}")
    tried = re.findall(r"number_of_executed_units: (\d+)", words(said))
    row = Row(name, int(tried[-1]) if tried else 0, len(list(corpus.iterdir())), failure=failure)
    if failure or (failure := run(said, one, "again", name, str(corpus))):
        return row._replace(failure=failure)
    growth_mb = float(words(said).split()[-1])
    grew = f"memory grew by {growth_mb} MB; allowed are {FLAT_MB:g} MB"
    return row._replace(growth_mb=growth_mb, failure=grew if growth_mb > FLAT_MB else None)


def with_hypothesis(minutes: float, folder: Path) -> Row:
    """Run the tests of the strategies until the time is over; they draw other inputs each time."""
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0", str(HERE.parent / "tests/test_fuzz.py"))
    end_s, row = time.monotonic() + 60 * minutes, Row(HYPOTHESIS)
    while not row.failure and time.monotonic() < end_s:
        row = row._replace(inputs=row.inputs + 1, failure=run(folder / f"{HYPOTHESIS}.log", *tests))
    return row


def run(said: Path, *arguments: str) -> str | None:
    """Run this Python, and write what it says; return the end of that if it fails."""
    with said.open("w") as file:
        done = subprocess.run([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, check=False)
    return f"exit status {done.returncode}: {words(said)}" if done.returncode else None


def words(said: Path) -> str:
    """Return the last words of a process."""
    return said.read_bytes()[-WORDS:].decode(errors="replace")


def table(rows: list[Row]) -> Table:
    """Return what people read."""
    shown = Table("target", box=None, pad_edge=False)
    for head in ("inputs", "kept", "growth MB", ""):
        shown.add_column(head, justify="right")
    for row in rows:
        grown = "" if row.growth_mb is None else f"{row.growth_mb:.2f}"
        shown.add_row(row.name, f"{row.inputs:,}", f"{row.kept:,}", grown, "FAILED" if row.failure else "sound")
    return shown


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="sh scripts/fuzz", description=(__doc__ or "").split(" ``sh")[0])
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="each, 0.1 to 10000 (%(default)g)")
    parser.add_argument("--only", nargs="+", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where inputs are kept that led somewhere or failed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, too")
    args = parser.parse_args()
    if not 0.1 <= args.minutes <= 10_000:
        parser.error(f"--minutes {args.minutes:g}; allowed are 0.1 to 10000")
    if unknown := [name for name in args.only if name not in NAMES]:
        parser.error(f"{unknown[0]} is no target; name some of {', '.join(NAMES)}")
    if any(name in TARGETS for name in args.only) and importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; pip install '.[fuzz]' (Linux on x86-64), or give --only hypothesis")
    check_writable(parser, args.json)
    args.keep = args.keep or Path(tempfile.mkdtemp(prefix="serstream-fuzz-"))
    args.keep.mkdir(parents=True, exist_ok=True)
    return args


def main() -> int:
    """Fuzz, show, write; return 1 if something was found, or not all was reached."""
    args, here = arguments(), machine()
    rows: list[Row] = []
    with suppress(KeyboardInterrupt):  # what was found until then is shown
        for number, name in enumerate(args.only, 1):
            print(f"{number}/{len(args.only)} {name}", file=sys.stderr, flush=True)
            rows.append(
                with_hypothesis(args.minutes, args.keep) if name == HYPOTHESIS else fuzz(name, args.minutes, args.keep)
            )
    wide = Console(width=None if sys.stdout.isatty() else 160)
    wide.print(f"{here}, {args.minutes:g} minutes each, inputs in {args.keep}", markup=False)
    wide.print(table(rows))
    for row in rows:
        if row.failure:
            wide.print(f"{row.name}: {row.failure}", markup=False)
    if args.json:
        found: dict[str, Any] = {"schema": SCHEMA, "machine": msgspec.to_builtins(here), "minutes": args.minutes}
        args.json.write_text(json.dumps(found | {"targets": [row._asdict() for row in rows]}, indent=1) + "\n")
    return int(len(rows) < len(args.only) or any(row.failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
