"""Draw what a view knows: every function returns rows of text, and a row knows nothing of the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from serstream.events import LABELS
from serstream.viewstate import STALE_S, TROUBLE, Entry, SourceView, ViewState, standing

# Okabe and Ito's palette, which the colour-blind can tell apart; the glyphs say the same without colour.
_LOOK = {
    "calm": ("○", "#009e73"),
    "happy": ("▲", "#e69f00"),
    "sad": ("▼", "#56b4e9"),
    "angry": ("■", "#d55e00"),
    "fearful": ("◆", "#cc79a7"),
    "uncertain": ("·", "none"),
    "no_speech": ("─", "dim"),
}
_WORDS = {
    "uncertain": ("hard to tell", "no emotion stands out"),
    "no_speech": ("listening", "nobody is speaking"),
}
_LOSSES = ("input_overflows", "ring_overruns", "non_finite", "stalled", "device_lost")
_WARNING = "#d55e00"
_RIBBON_S = 60.0


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


_LETTERS = {
    "a": ".##. #..# #### #..# #..#",
    "c": ".### #... #... #... .###",
    "d": "###. #..# #..# #..# ###.",
    "e": "#### #... ###. #... ####",
    "f": "#### #... ###. #... #...",
    "g": ".### #... #.## #..# .###",
    "h": "#..# #..# #### #..# #..#",
    "i": "# # # # #",
    "l": "#... #... #... #... ####",
    "m": "#...# ##.## #.#.# #...# #...#",
    "n": "#...# ##..# #.#.# #..## #...#",
    "o": ".##. #..# #..# #..# .##.",
    "p": "###. #..# ###. #... #...",
    "r": "###. #..# ###. #.#. #..#",
    "s": ".### #... .##. ...# ###.",
    "t": "##### ..#.. ..#.. ..#.. ..#..",
    "u": "#..# #..# #..# #..# .##.",
    "w": "#...# #...# #.#.# ##.## #...#",
    "y": "#...# .#.#. ..#.. ..#.. ..#..",
    " ": ".. .. .. .. ..",
}
_HALVES = {"..": " ", "#.": "▀", ".#": "▄", "##": "█"}


def _big(word: str, width: int, double: bool) -> list[str]:
    """Return a word in letters of three rows, or of five where that fits ``width`` cells."""
    pixels = [".".join(_LETTERS[letter].split()[y] for letter in word) for y in range(5)]
    if double and 2 * len(pixels[0]) <= width:
        return ["".join("██" if pixel == "#" else "  " for pixel in row) for row in pixels]
    if len(pixels[0]) > width:
        return [word]
    pixels.append("." * len(pixels[0]))
    return [
        "".join(_HALVES[a + b] for a, b in zip(*pair, strict=True)) for pair in zip(*[iter(pixels)] * 2, strict=True)
    ]


def _bar(fraction: float, width: int, thin: bool) -> str:
    """Return a bar of ``width`` cells: thin, to half a cell, or full, to an eighth of a cell."""
    full, parts = ("▄", " ▖") if thin else ("█", " ▏▎▍▌▋▊▉")
    cells, part = divmod(round(min(1.0, max(0.0, fraction)) * width * len(parts)), len(parts))
    return (full * cells + parts[part]).rstrip().ljust(width)


def _row(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(" ", *parts, no_wrap=True)


def _fit(row: Text, width: int) -> Text:
    row = row.copy()
    row.truncate(max(0, width - 1), overflow="ellipsis")
    row.pad_right(max(0, width - row.cell_len))
    return row


def _spread(left: Text, right: Text, width: int) -> Text:
    """Put two texts at the two ends of a row; the right one gives way."""
    space = width - 1 - left.cell_len - right.cell_len
    return left.append(" " * space).append_text(right) if space > 1 else left


def _rule(title: str, width: int) -> Text:
    return _row((f"{title} ", "dim"), ("─" * max(0, width - len(title) - 3), "dim"))


def _headline(state: ViewState, view: SourceView | None) -> tuple[str, str, str]:
    """Return the large word, the sentence below it and their style."""
    if view is None:
        wanted = f"source {state.source} of {state.waiting_for}" if state.source else state.waiting_for
        return "waiting", f"for {wanted}", "dim"
    silent_s = state.now_s - view.heard_s
    if silent_s > STALE_S:
        return "waiting", f"no news for {_duration(silent_s)} from {state.waiting_for}", "dim"
    if view.status in TROUBLE:
        return *TROUBLE[view.status], "dim" if view.status == "starting" else _WARNING
    if view.state in _WORDS or not view.state:
        return *_WORDS[view.state or "no_speech"], "dim"
    return view.state, f"for {_duration(_lasted_s(state, view))}", f"bold {_LOOK[view.state][1]}"


def _lasted_s(state: ViewState, view: SourceView) -> float:
    return view.stream_s - view.since_s + min(1.0, state.now_s - view.heard_s)


def _top(state: ViewState, view: SourceView | None, width: int) -> Text:
    left = _row(("serstream", "bold"), (" hears how something is said", "dim"))
    if view is None:
        return left
    status = "silent" if state.now_s - view.heard_s > STALE_S else view.status
    style = "none" if status in ("running", "starting") else _WARNING
    return _spread(left, Text.assemble((_shorten(view.source, 20), "bold"), "  ", (status, style)), width)


def _bars(view: SourceView | None, width: int, tall: bool) -> list[Text]:
    posterior = (view.last.posterior if view and view.last else None) or {}
    other = view.last.other if view and view.last else None
    values = {**posterior, "other": other}
    rows: list[Text] = []
    for name in (*LABELS, "other"):
        glyph, style = _LOOK.get(name, (" ", "dim")) if view else (_LOOK.get(name, " ")[0], "dim")
        loud = "bold" if view and view.state == name else "dim"
        value = values.get(name)
        bar = _bar(view.shown.get(name, 0.0) if view else 0.0, max(1, width - 19), not tall)
        said = "   -" if value is None else f"{value:4.0%}"
        plain = "none" if view and name != "other" and loud == "dim" else loud
        rows += [_row((f"{glyph} ", style), (f"{name:<9}", plain), (bar, style), (f"  {said}", loud))]
        rows += [_row()] * tall
    return rows


def _voice(view: SourceView | None, width: int) -> Text:
    cells = max(3, width - 40)
    voice = view.last.voice if view and view.last else None
    if view is None or not voice:
        return _row(("voice      female ", "dim"), ("─" * cells, "dim"), (" male", "dim"))
    at = round((1.0 - view.shown.get("female", 0.5)) * (cells - 1))
    name = max(voice, key=lambda each: voice[each])
    row = _row(("voice      ", "dim"), ("female ", "none" if name == "female" else "dim"), ("─" * at, "dim"), "●")
    row.append("─" * (cells - 1 - at), style="dim").append(" male", style="none" if name == "male" else "dim")
    return row.append(f"  {name} {voice[name]:.0%}".rjust(14), style="dim")


def _level(view: SourceView | None, width: int) -> Text:
    cells = max(3, width - 37)
    if view is None or view.last is None:
        return _row(("level      ", "dim"), ("─" * cells, "dim"))
    heard = view.speaking or view.last.speech >= 0.5
    loud = "too loud!" if view.last.level_dbfs > -3.0 else f"{view.last.level_dbfs:4.0f} dBFS"
    row = _row(("level      ", "dim"), *_meter(view.shown.get("level", 0.0), view.peak, cells))
    return row.append(f"  {loud}").append(
        "    ● speech" if heard else "    ○ silence", style="bold" if heard else "dim"
    )


def _meter(fraction: float, peak: float, width: int) -> list[tuple[str, str]]:
    filled = round(fraction * width)
    cells = [("━", "none")] * filled + [("─", "dim")] * (width - filled)
    if peak > 0.0:
        cells[min(width - 1, round(peak * width))] = ("┃", "bold")
    return cells


def _ribbon(view: SourceView | None, width: int) -> Text:
    """Return the states of the last minute, a glyph per cell; cells stay on a grid of the stream's time."""
    cells = max(1, min(160, width - 18))
    row = _row(("last 60 s  ", "dim"))
    if view is None or not view.states:
        return row.append("─" * cells, style="dim").append("  now", style="dim")
    cell_s = _RIBBON_S / cells
    newest = int(view.states[-1][0] / cell_s)
    by_cell = {int(stream_s / cell_s): state for stream_s, state in view.states}
    for cell in range(newest - cells + 1, newest + 1):
        glyph, style = _LOOK[by_cell.get(cell, "no_speech")]
        row.append(glyph, style=style)
    return row.append("  now", style="dim")


def _others(state: ViewState, view: SourceView | None, width: int) -> list[Text]:
    rows = [_compact(state, other, width) for other in state.sources.values() if other is not view]
    return [_rule("other sources", width), *rows] if rows else []


def _compact(state: ViewState, view: SourceView, width: int) -> Text:
    word, _, style = _headline(state, view)
    glyph = _LOOK.get(view.state or "no_speech", ("", ""))[0] if style != _WARNING else "!"
    lasted = f"{_duration(_lasted_s(state, view)):>11}" if word in LABELS else " " * 11
    probability = f"{view.target.get(word, 0.0):4.0%}" if word in LABELS else "    "
    cells = max(1, width - 68)
    meter = _bar(view.shown.get("level", 0.0), cells, True)
    dbfs = f"{view.last.level_dbfs:5.0f} dBFS" if view.last else ""
    return _row(
        f"{_shorten(view.source, 16):<17}",
        (f"{glyph} {word:<13}", style),
        f"{probability}  {lasted}  ",
        (meter, "dim"),
        (f"{dbfs}", "dim"),
    )


def _shorten(word: str, length: int) -> str:
    return word if len(word) <= length else f"{word[: length - 1]}…"


def _recent(view: SourceView | None, n_rows: int) -> list[Text]:
    entries = list(view.recent) if view else []
    if n_rows < 8:
        # where space is short, emotions and trouble say it; utterances repeat them
        entries = [entry for entry in entries if entry.words != "utterance"]
    if not entries:
        return [_row(("nothing yet", "dim"))] if n_rows > 0 else []
    return [_recent_row(entry) for entry in entries[: max(0, n_rows)]]


def _recent_row(entry: Entry) -> Text:
    glyph, style = _LOOK.get(entry.look, ("!", _WARNING) if entry.look == "gap" else (" ", "dim"))
    duration = "" if entry.duration_s is None else f"{entry.duration_s:6.1f} s"
    row = _row((f"{entry.clock:<8}  ", "dim"), (f"{glyph} {entry.words:<11}", style), duration)
    return row.append(f"  {entry.detail}", style="dim") if entry.detail else row


def _status(view: SourceView | None) -> Text:
    if view is None or view.health is None:
        return _row(("no health report yet", "dim"))
    health = view.health
    row = _row(
        (f"{_shorten(view.source, 16)} {standing(health)}", _WARNING if health.fault else "none"),
        (f"  latency {health.latency_p50_s:.2f} s, p99 {health.latency_p99_s:.2f} s", "dim"),
        (f"  real-time factor {health.rtf:.3f}", "dim"),
    )
    samples = sum(health.counters.get(name, 0) for name in _LOSSES)
    if not (samples or view.lost_events):
        # a hole is counted when it ends: while it is open, nothing may be promised
        return row if health.status in ("lost", "stalled") else row.append("  no losses", style="dim")
    share = samples / max(1, samples + health.counters.get("captured", 0))
    row.append(f"  lost {share:.2%}", style=_WARNING if health.degraded else "none")
    return row.append(f", {view.lost_events} events", style=_WARNING) if view.lost_events else row


def _body(state: ViewState, view: SourceView | None, width: int, height: int) -> list[Text]:
    """Return the picture without recent events: the roomier the terminal, the more air."""
    tall, short = height >= 34, height < 20
    word, sentence, style = _headline(state, view)
    letters = [word.upper()] if short else _big(word, width - 4, tall)
    air: list[Text] = [] if short else [_row()]
    return [
        _top(state, view, width),
        *air * (2 if tall else 1),
        *(_row((f" {line}", style)) for line in letters),
        *(air if tall else []),
        _row((f" {sentence}", "none" if view else "dim")),
        *air * (2 if tall else 1),
        *_bars(view, width, tall),
        *air,
        _voice(view, width),
        *(air if tall else []),
        _level(view, width),
        *(air if tall else []),
        _ribbon(view, width),
        *(air if tall else []),
        *_others(state, view, width),
    ]


def rows(state: ViewState, width: int, height: int) -> list[Text]:
    """Return the picture as exactly ``height`` rows of exactly ``width`` cells."""
    view = state.main
    side = width * 2 // 5 if width >= 110 else 0
    wide = width - side
    picture = _body(state, view, wide, height)[: max(0, height - 2)]
    free = max(0, height - 2 - len(picture))
    if side:
        picture += [_row()] * free
        column = [_rule("recent", side - 2), *_recent(view, len(picture) - 1)]
        column += [_row()] * (len(picture) - len(column))
        picture = [_fit(a, wide).append("│ ", "dim").append_text(b) for a, b in zip(picture, column, strict=True)]
    elif free > 1:
        recent = [_rule("recent", width), *_recent(view, free - 1)]
        picture += recent + [_row()] * (free - len(recent))
    else:
        picture += [_row()] * free
    hint = state.hint if view is None else ""
    if state.refused:
        hint = f"{state.refused} messages were no events of this version of serstream"
    bottom = [_status(view), _spread(_row((hint, "dim")), Text("Ctrl-C stops", style="dim"), width)]
    return [_fit(row, width) for row in (*picture, *bottom)][-height:]


def render(state: ViewState, width: int, height: int) -> Group:
    """Return the picture for ``width`` by ``height`` cells; the same state gives the same picture."""
    return Group(*rows(state, width, height))
