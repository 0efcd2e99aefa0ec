"""What a person sees of the events: a live picture on a terminal, plain lines, JSON lines, an SVG.

:class:`ViewState` takes events and :func:`render` draws it;
the functions here own a terminal, a pipe or a file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import tzinfo
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.control import Control
from rich.segment import Segment, Segments
from rich.text import Text

from serstream.errors import EventError
from serstream.events import AnyEvent, Emotion, Gap, Health, Speech, encode_json
from serstream.history import Lost
from serstream.picture import render, rows
from serstream.viewstate import Item, Receive, ViewState, clock_time, feed, loss, lost_s, standing, told

__all__ = [
    "Item", "Lost", "Receive", "ViewState", "export_svg", "feed", "print_json", "print_lines", "render",
    "rows", "run_view",
]  # fmt: skip

_REPAINT_S = 5.0


class _Painter:
    """Writes the rows that changed, in one go, so that nothing flickers."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._size = (0, 0)
        self._rows: list[Text] = []
        self._full_s = 0.0

    def paint(self, state: ViewState, now_s: float) -> None:
        width, height = self._console.size
        new = rows(state, width, height)
        with self._console:
            if (width, height) != self._size:
                self._console.control(Control.clear())
            # what someone else wrote onto the screen is painted over every few seconds
            if (width, height) != self._size or now_s - self._full_s > _REPAINT_S:
                self._size, self._rows, self._full_s = (width, height), [], now_s
            for y, row in enumerate(new):
                if y >= len(self._rows) or row != self._rows[y]:
                    self._console.control(Control.move_to(0, y))
                    self._console.print(row, end="", soft_wrap=True, highlight=False)
        self._rows = new


@contextlib.contextmanager
def _quiet_keyboard() -> Iterator[None]:
    """Keep typed letters out of the picture; Ctrl-C works as ever."""
    if not (sys.stdin and sys.stdin.isatty()):
        yield
        return
    import termios

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    silent = termios.tcgetattr(fd)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def run_view(
    receive: Receive, console: Console, *, state: ViewState | None = None, redraws_per_s: float = 12.0
) -> None:
    """Show the events on a terminal until Ctrl-C, or until ``receive`` raises EOFError.

    The terminal is given back as it was. A message that is no event (:class:`EventError`) is counted in the
    picture. Where nothing can be drawn (no terminal, a dumb one, an encoding without block characters) plain
    lines are printed instead. Called from any one thread; Ctrl-C interrupts it in the main thread alone.
    """
    if not console.is_terminal or console.is_dumb_terminal or console.options.ascii_only:
        print_lines(receive, console.file)
        return
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        _show(receive, console, state or ViewState(), 1.0 / redraws_per_s)


def _show(receive: Receive, console: Console, state: ViewState, period_s: float) -> None:
    with _quiet_keyboard(), console.screen():
        painter = _Painter(console)
        due_s = 0.0
        while True:
            due_s = _turn(receive, painter, state, due_s, period_s)


def _turn(receive: Receive, painter: _Painter, state: ViewState, due_s: float, period_s: float) -> float:
    """Take what comes before the next picture is due, paint it when it is, return when the next one is."""
    item = None
    try:
        item = receive(max(0.0, due_s - time.monotonic()))
    except EventError:
        state.refused += 1
    now_s = time.monotonic()
    if item is not None:
        state.update(item, now_s)
    if now_s < due_s:
        return due_s
    state.advance(now_s)
    painter.paint(state, now_s)
    return now_s + period_s


def print_lines(receive: Receive, out: IO[str], *, tz: tzinfo | None = None) -> None:
    """Write a line for every emotion, speech and gap event, every loss and every change of status.

    Ends at Ctrl-C, when ``receive`` raises EOFError, or when nobody reads ``out`` any more.
    A message that is no event is told on standard error.
    """
    statuses: dict[str, str] = {}
    _print(receive, out, lambda item: _line(item, statuses, tz))


def print_json(receive: Receive, out: IO[str]) -> None:
    """Write every event as one JSON object a line, a loss as type ``lost``; ends like `print_lines`."""
    _print(receive, out, _json)


def _print(receive: Receive, out: IO[str], to_line: Callable[[Item], str]) -> None:
    try:
        while True:
            try:
                item = receive(1.0)
            except EventError as error:
                print(f"serstream: {error}", file=sys.stderr)
                continue
            if item is not None and (line := to_line(item)):
                out.write(line + "\n")
                out.flush()
    except (KeyboardInterrupt, EOFError):
        return
    except BrokenPipeError:
        _forget(out)


def _forget(out: IO[str]) -> None:
    """Point a broken pipe at nothing, or the interpreter would complain of it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, out.fileno())
        os.close(nothing)


def _json(item: Item) -> str:
    if isinstance(item, Lost):
        fields = {
            "topic": item.topic,
            "session": item.session,
            "from_seq": item.from_seq,
            "to_seq": item.to_seq,
        }
        return json.dumps({"type": "lost", **fields}, separators=(",", ":"))
    return encode_json(item).decode()


def _line(item: Item, statuses: dict[str, str], tz: tzinfo | None) -> str:
    if isinstance(item, Lost):
        source, said = loss(item)
        return f"--:--:--  {source}  {said} (seq {item.from_seq} to {item.to_seq})"
    said = words(item, statuses)
    return f"{clock_time(item, item.stream_s, tz)}  {item.source}  {said}" if said else ""


def words(event: AnyEvent, statuses: dict[str, str]) -> str:
    """Return what a line says of an event, nothing of some; ``statuses`` is what was said of each source before."""
    words = ""
    match event:
        case Emotion(phase="onset"):
            words = f"{event.label} begins ({event.probability:.0%})"
        case Emotion(phase="update"):
            words = f"{event.label} for {event.stream_s - event.start_s:.1f} s ({event.probability:.0%})"
        case Emotion(end_s=float(end_s)):
            words = f"{event.label} ends after {end_s - event.start_s:.1f} s"
        case Speech(phase="start"):
            words = "speech starts"
        case Speech(end_s=float(end_s)):
            words = f"speech ends after {end_s - event.start_s:.1f} s, {told(event)}"
        case Gap():
            about = "about " if event.estimated else ""
            lost = f"{about}{event.lost_samples} samples lost ({lost_s(event):.2f} s)"
            words = f"gap {event.phase}s, {event.cause}: {lost}"
        case Health() if statuses.get(event.source) != standing(event):
            before = statuses.get(event.source)
            statuses[event.source] = standing(event)
            words = f"status {before} -> {standing(event)}" if before else f"status {standing(event)}"
    return words


# what each block character covers of its cell: x, y, width and height in eighths
_BLOCKS = {"█": (0, 0, 8, 8), "▀": (0, 0, 8, 4), "▄": (0, 4, 8, 4), "▖": (0, 4, 4, 4)}
_BLOCKS |= {partial: (0, 0, n, 8) for n, partial in enumerate("▏▎▍▌▋▊▉", 1)}
_CRISP = 'shape-rendering="crispEdges"'
_SVG_TEXT = re.compile(rf'<text (class="[^"]+") x="([\d.]+)" y="([\d.]+)" [^>]*>([{"".join(_BLOCKS)}]+)</text>')


def export_svg(state: ViewState, path: str | Path, width: int = 80, height: int = 24) -> None:
    """Write the picture as an SVG file of a terminal window of ``width`` by ``height`` cells."""
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
    for segment in console.render(render(state, width, height)):
        # one piece for each word, or the spaces in front of it would be lost in some viewers
        words = re.findall(rf"[{''.join(_BLOCKS)}]+|[^\s{''.join(_BLOCKS)}]+|\s+", segment.text)
        console.print(Segments([Segment(word, segment.style) for word in words]), end="")
    svg = console.export_svg(title="serstream listen", unique_id="serstream")
    Path(path).write_text(_SVG_TEXT.sub(_blocks_as_rectangles, svg), encoding="utf-8")


def _blocks_as_rectangles(text: re.Match[str]) -> str:
    """Draw block characters as rectangles, since fonts leave gaps between rows (of 24.4 units)."""
    style, left, baseline = text[1], float(text[2]), float(text[3])
    drawn = []
    for run in re.finditer(r"(.)\1*", text[4]):
        x, y, w, h = (eighths / 8 for eighths in _BLOCKS[run[1]])
        wide = (w + len(run[0]) - 1) * 12.2
        place = f'x="{left + (run.start() + x) * 12.2:.2f}" y="{baseline - 18.5 + y * 24.4:.2f}"'
        drawn.append(f'<rect {style} {place} width="{wide:.2f}" height="{h * 24.4:.2f}" {_CRISP}/>')
    return "".join(drawn)
