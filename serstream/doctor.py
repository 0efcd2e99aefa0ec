"""``serstream doctor``: every check in a process of its own, its findings as they come, and what they come to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serstream import __version__
from serstream.checks import CHECKS
from serstream.children import apart, command, end
from serstream.findings import Case, Finding, failure, skipped
from serstream.machine import Machine, machine

_LOOK = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "bold red"), "skipped": ("·", "dim")}
_STATUS_WIDTH, _NAME_WIDTH = 9, max(map(len, CHECKS))


class Diagnosis(msgspec.Struct, frozen=True):
    """All that was found, as ``--json`` prints it."""

    version: str
    machine: Machine
    findings: list[Finding]
    schema: Literal["serstream-doctor/1"] = "serstream-doctor/1"


def examine(path: Path | None, *, listen: bool) -> Iterator[tuple[str, list[Finding]]]:
    """Yield the name of each check before it runs, with nothing, and then with its findings.

    Parameters
    ----------
    path : Path or None
        The configuration, or None for the one that would be found.
    listen : bool
        False leaves every microphone closed.
    """
    microphones = bool(Case.of(path).microphones)
    failed: set[str] = set()
    for name, check in CHECKS.items():
        yield name, []
        if check.listens is not None and not microphones:
            found = [skipped(name, "no source of the configuration is a microphone")]
        elif check.listens and not listen:
            found = [skipped(name, "the microphone was to stay closed")]
        elif check.needs in failed:
            found = [skipped(name, f"not without the check of the {check.needs}, which failed")]
            failed.add(name)
        else:
            found = ask(name, path)
        failed |= {finding.name for finding in found if finding.status == "failure"}
        yield name, found


def ask(name: str, path: Path | None) -> list[Finding]:
    """Run a check in a process of its own, within its time; whatever becomes of that is a finding."""
    limit_s = CHECKS[name].limit_s
    arguments = [] if path is None else [str(path)]
    process = subprocess.Popen(
        command("checks", name, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **apart(),
    )
    try:
        answer, _ = process.communicate(timeout=limit_s)
        return msgspec.json.decode(answer, type=list[Finding])
    except subprocess.TimeoutExpired:
        return [failure(name, f"the check has not ended within {limit_s:g} s; something that it asks hangs")]
    except msgspec.DecodeError:
        return [failure(name, f"the check itself broke: its process {end(process)}")]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        end(process)
        assert process.stdout is not None
        process.stdout.close()


def run(path: Path | None, *, listen: bool, as_json: bool) -> int:
    """Check everything and print it; return the exit status.

    0 for nothing worse than warnings, 1 for a failure, 2 if the configuration cannot be used.
    """
    terminal = sys.stdout.isatty() and not as_json
    out = Console(highlight=False)
    here = machine()
    if not as_json:
        out.print(f"serstream {__version__} on {here}", soft_wrap=not terminal, markup=False)
    findings: list[Finding] = []
    with (out if terminal else Console(stderr=True)).status("") as status:
        for name, found in examine(path, listen=listen):
            status.update(f"checking {name}")
            findings += found
            for finding in [] if as_json else found:
                out.print(row(finding) if terminal else line(finding), soft_wrap=not terminal, markup=False)
    if as_json:
        print(msgspec.json.encode(Diagnosis(__version__, here, findings)).decode())
    else:
        out.print(summary(findings))
    failed = {finding.name for finding in findings if finding.status == "failure"}
    return 2 if "configuration" in failed else int(bool(failed))


def line(finding: Finding) -> str:
    """Return a finding as one line of plain text."""
    remedy = f"; remedy: {finding.remedy}" if finding.remedy else ""
    return f"{finding.status:{_STATUS_WIDTH}}{finding.name:{_NAME_WIDTH}}  {finding.sentence}{remedy}"


def row(finding: Finding) -> Table:
    """Return a finding as a row for a terminal, as wide as that is."""
    mark, style = _LOOK[finding.status]
    text = Text(finding.sentence)
    if finding.remedy:
        text.append(f"\n{finding.remedy}", style="cyan")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=_STATUS_WIDTH, no_wrap=True)
    table.add_column(width=_NAME_WIDTH, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_row(Text(f"{mark} {finding.status}", style), finding.name, text)
    return table


def summary(findings: list[Finding]) -> str:
    """Return what the findings come to, in one line."""
    counted = {status: sum(f.status == status for f in findings) for status in ("failure", "warning")}
    if not any(counted.values()):
        return "nothing wrong was found"
    return ", ".join(f"{n} {status}{'s' if n > 1 else ''}" for status, n in counted.items() if n)
