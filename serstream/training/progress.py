"""How far a long command is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY_S = 10.0


class Progress:
    """Count steps on standard error, from ``done`` to ``total``."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done = what, total, done
        self._said_at = self._started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._terminal = sys.stderr.isatty()
        self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not self._terminal)
        self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        if not self._terminal and (self._done == self._total or now - self._said_at >= LINE_EVERY_S):
            self._said_at = now
            self.say(f"{self._what}: {self._done} of {self._total}, {now - self._started:.0f} s")

    def say(self, line: str) -> None:
        """Write a line; a bar stays below it."""
        if self._terminal:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
