"""What happened at a source and when, but never what was heard: written as it is read, and read again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec

from serstream.errors import SourceError, reason
from serstream.events import Cause, Fault, Status
from serstream.pulled import Source
from serstream.ring import Block, Hole

_log = logging.getLogger(__name__)

SCHEMA: Literal["serstream-timing/1"] = "serstream-timing/1"
STANDING_S = 1.0
"""So often the counters are written; at a hole and at the end they always are."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line; ``started_s`` is the start of the session in seconds since 1970, from which ``at_s`` counts."""

    schema: Literal["serstream-timing/1"] = SCHEMA
    source: str
    session: str
    started_s: float


class Came(msgspec.Struct, frozen=True, array_like=True, tag="block"):
    """A block was read; ``captured_s`` is when the sample after its last was captured, where that is known."""

    at_s: float
    n_samples: int
    captured_s: float | None


class Missed(msgspec.Struct, frozen=True, array_like=True, tag="hole"):
    """A hole began or ended, as :class:`serstream.ring.Hole` has it."""

    at_s: float
    phase: Literal["start", "end"]
    cause: Cause
    lost_samples: int
    estimated: bool


class Stood(msgspec.Struct, frozen=True, array_like=True, tag="is"):
    """How the source was; ``counters`` are those that changed."""

    at_s: float
    status: Status
    fault: Fault | None
    drift_ppm: float | None
    counters: dict[str, int]


Line = Came | Missed | Stood
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class TimingLog:
    """Writes what a source does. A disk that takes no more ends the log, never the source.

    Called from one thread at a time.

    Parameters
    ----------
    path : Path
        A file that exists is gone on with.
    header : Header
    zero_s : float
        The start of the session as ``now_s`` tells.
    now_s : callable
        As :func:`time.monotonic`.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        zero_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._zero_s, self._now_s = path, zero_s, now_s
        self._counters: dict[str, int] = {}
        self._due_s = zero_s
        self._file: IO[bytes] | None = None
        try:
            self._file = self._path.open("ab")
        except OSError as error:
            self._give_up(error)
        if self._file is not None and not self._file.tell():
            self._write(header)

    def take(self, items: Sequence[Block | Hole], source: Source, counters: dict[str, int]) -> None:
        """Write what was read, perhaps nothing, and how the source is when that is due."""
        now_s = self._now_s()
        for item in items:
            self._write(self._line_of(item, now_s))
        if now_s >= self._due_s or any(isinstance(item, Hole) for item in items):
            self._stand(now_s, source, counters)

    def _line_of(self, item: Block | Hole, now_s: float) -> Line:
        at_s = self._at(now_s)
        if isinstance(item, Hole):
            return Missed(at_s, item.phase, item.cause, item.lost_samples, item.estimated)
        return Came(at_s, item.samples.size, None if item.captured_s is None else self._at(item.captured_s))

    def close(self, source: Source, counters: dict[str, int]) -> None:
        """Write how the closed source is, and end."""
        self._stand(self._now_s(), source, counters)
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _at(self, now_s: float) -> float:
        return round(now_s - self._zero_s, 4)

    def _stand(self, now_s: float, source: Source, counters: dict[str, int]) -> None:
        self._due_s = now_s + STANDING_S
        changed = {name: value for name, value in counters.items() if self._counters.get(name) != value}
        self._counters = counters
        self._write(Stood(self._at(now_s), source.status, source.fault, source.drift_ppm, changed), flush=True)

    def _write(self, line: Header | Line, *, flush: bool = False) -> None:
        try:
            if self._file is not None:
                self._file.write(msgspec.json.encode(line) + b"\n")
                if flush:
                    self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _log.warning("the timing of the source is not written any more: %s: %s", self._path, error.strerror)
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()


def read_timing(path: Path) -> Generator[Line, None, None]:
    """Yield what a file tells; a last line that was cut off is left out.

    Raises
    ------
    SourceError
        With the first line, if the file cannot be read or is no timing; later, if a line is not one.
    """
    try:
        with path.open("rb") as file:
            _check_header(file.readline(), path)
            for number, text in enumerate(file, 2):
                if text.endswith(b"\n"):
                    yield _line(text, number, path)
    except SourceError:  # which is an OSError too
        raise
    except OSError as error:
        raise SourceError(
            f"timing {path} cannot be read: {error.strerror}; name a file of serstream run --record"
        ) from error


def _check_header(text: bytes, path: Path) -> None:
    try:
        msgspec.json.decode(text, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no {SCHEMA} ({reason(error)}); name a file of serstream run --record") from error


def _line(text: bytes, number: int, path: Path) -> Line:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SourceError(f"line {number} of {path} is not of {SCHEMA}: {reason(error)}; record it again") from error
