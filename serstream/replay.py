"""What was recorded of a source happens again, with noise in the place of what was heard."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serstream.config import ReplaySource
from serstream.events import Fault, Status
from serstream.pulled import Pulled
from serstream.ring import Block, Hole
from serstream.timing import Came, Line, Missed, Stood, read_timing

_LEVEL = np.float32(0.01)


class Replay(Pulled):
    """The blocks, holes, counters and standing of another run, at the pace of then or as fast as they are read.

    While muted it stands still. Its noise is the same at every run.
    """

    def __init__(self, config: ReplaySource) -> None:
        super().__init__(realtime=config.realtime)
        self._path = Path(config.path)
        self._lines: Generator[Line, None, None] | None = None
        self._line: Line | None = None
        self._stood: Stood | None = None
        self._recorded: dict[str, int] = {}
        self._noise = np.random.Generator(np.random.Philox(0))

    def open(self) -> None:
        """Begin at the start of the file, or where another went on to; raises :class:`SourceError`."""
        self._lines, heard = read_timing(self._path), 0
        self._turn()
        while heard < self._first and self._line is not None:
            heard += _length(self._line)
            self._turn()

    def _turn(self) -> None:
        self._line = next(self._lines, None) if self._lines is not None else None

    @property
    def status(self) -> Status:
        """How the source was then."""
        return super().status if self._stood is None or self._mute_wanted else self._stood.status

    @property
    def fault(self) -> Fault | None:
        """What was wrong with the signal then."""
        return None if self._stood is None or self._mute_wanted else self._stood.fault

    def _advance(self, deadline: float) -> None:
        while not self._queue and self._line is not None and self._has_come(self._line.at_s, deadline):
            self._happen(self._line)
            self._turn()
        self._exhausted = self._line is None

    def _has_come(self, at_s: float, deadline: float) -> bool:
        """Wait until the moment of a line, at most until the deadline."""
        if not self._realtime:
            return True
        if self._start_s is None:
            self._start_s = time.monotonic() - at_s
        due_s = self._start_s + at_s
        wait_s = min(due_s, deadline) - time.monotonic()
        return (wait_s <= 0 or not self._changed.wait(wait_s)) and due_s <= max(deadline, time.monotonic())

    def _happen(self, line: Line) -> None:
        match line:
            case Came(_, n_samples, captured_s):
                zero_s = self._start_s
                at_s = None if zero_s is None or captured_s is None else zero_s + captured_s
                self._queue.append(Block(self._first, self._samples(n_samples), at_s))
            case Missed(_, phase, cause, lost_samples, estimated):
                self._queue.append(Hole(phase, cause, self._first + _length(line), lost_samples, estimated))
            case Stood():
                self._stood, self.drift_ppm = line, line.drift_ppm
                self._recorded |= line.counters
                self._counters |= self._recorded
        self._first += _length(line)

    def _samples(self, n_samples: int) -> NDArray[np.float32]:
        return _LEVEL * self._noise.standard_normal(n_samples, np.float32)

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._lines is not None:
            self._lines.close()


def _length(line: Line) -> int:
    """Return by how much a line moves the index on."""
    match line:
        case Came():
            return line.n_samples
        case Missed(phase="end") if line.cause != "non_finite":
            return line.lost_samples
    return 0
