"""The report: Markdown tables, pictures, and the summary in the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serstream.events import LABELS
from serstream.training.card import put
from serstream.training.evaluation import statistics, text
from serstream.training.evaluation.bars import bars
from serstream.training.evaluation.counts import BESIDE, COLUMNS, DELAY_S, SECONDS, Result
from serstream.training.evaluation.matching import COLLAR_S
from serstream.training.evaluation.plots import draw, title
from serstream.training.evaluation.results import (
    LATER_FOLDS,
    Figures,
    Name,
    by_fold,
    corpora,
    false_events,
    figures,
    foreign,
    int8,
    load,
    loudest_sounds,
    reading,
    robustness,
    streams,
    without_speakers,
)

LATER = f"UAR, folds {', '.join(map(str, LATER_FOLDS))} alone"
Rows = list[list[str]]
Of = Callable[[Figures], str]


def report(folder: Path, cards: Sequence[Path] = ()) -> None:
    """Write ``README.md`` and pictures from the counts in ``folder/results``, and the summary into other documents."""
    results = load(folder)
    pictures = draw(results, folder)
    sections = [
        text.HEAD,
        _bars(results),
        _runs(results),
        *(_five(results, corpus) for corpus in corpora(results)),
        _eight(results),
        _folds(results),
        _picture(pictures, "confusion.png"),
        _picture(pictures, "reliability.png"),
        _seconds(results),
        _picture(pictures, "seconds.png"),
        _int8(results),
        _robustness(results),
        _picture(pictures, "robustness.png"),
        _streams(results),
        _noise(results),
        _reading(results),
    ]
    (folder / "README.md").write_text("\n".join(s for s in sections if s), encoding="utf-8")
    for card in cards:
        put(card, "evaluation", summary(results))


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def summary(results: Sequence[Result]) -> str:
    """Return what other documents say: UAR by corpus and column, and how many bars are met."""
    rows = [[f"{title(c)}, five classes", *_cells(results, "five", c, COLUMNS, _uar)] for c in corpora(results)]
    rows += [
        [f"{title(c)}, eight classes", *_cells(results, "eight", c, COLUMNS, _uar)] for c in corpora(results, "eight")
    ]
    asked = bars(results)
    met = sum(bar.met in ("aim", "bar") for bar in asked)
    measured = sum(bar.met != "not measured" for bar in asked)
    said = f"Of {len(asked)} bars set beforehand, {measured} are measured and {met} met.\n"
    return (
        table(["UAR on speakers that it never heard", *COLUMNS], rows) + f"\n{_rests(results, 'five').strip()} {said}"
    )


def _bars(results: Sequence[Result]) -> str:
    rows = []
    for b in bars(results):
        sign = "at most" if b.lower else "at least"
        aim = "" if b.aim is None else f"{b.aim:g}"
        value = "" if b.met == "not measured" else format(b.value, b.form)
        rows.append([b.name, value, f"{sign} {b.bar:g}", aim, b.met])
    return text.BARS + _rests(results, "five") + table(["what", "value", "bar", "aim", "met"], rows)


def _runs(results: Sequence[Result]) -> str:
    rows = [
        [r.model, str(r.fold or "none"), str(r.seed), f"`{r.sha256[:12]}`", ", ".join(map(title, r.five)) or "-"]
        for r in sorted(results, key=lambda r: (r.fold, r.seed))
    ]
    return text.RUNS + table(["model", "fold left out", "seed", "sha256", "clips scored of"], rows)


def _cells(results: Sequence[Result], name: Name, corpus: str, columns: Sequence[str], of: Of) -> list[str]:
    found = [figures(results, name, corpus, column) for column in columns]
    return ["-" if f is None else of(f) for f in found]


def _uar(f: Figures) -> str:
    sd = "" if f.sd is None else f" ± {f.sd:.3f}"
    return f"{f.uar:.3f}{sd} [{f.low:.2f}, {f.high:.2f}]"


def _share(field: str) -> Of:
    return lambda f: "-" if (value := getattr(f, field)) != value else f"{value:.3f}"


FIVE: tuple[tuple[str, Of], ...] = (
    ("UAR ± over seeds [95 % over speakers]", _uar),
    ("accuracy", _share("accuracy")),
    ("macro F1", _share("macro_f1")),
    ("UAR, female voices", _share("female")),
    ("UAR, male voices", _share("male")),
    ("voice, UAR", _share("voice")),
    ("expected calibration error", _share("calibration_error")),
    ("uncertain", _share("uncertain")),
    ("no speech", _share("no_speech")),
    ("accuracy where a label was entered", _share("named")),
    ("models; clips heard", lambda f: f"{f.runs}; {f.clips}"),
)
RECALL = tuple(
    (f"recall of {label}", lambda f, k=k: f"{statistics.recalls(f.confusion)[k]:.3f}") for k, label in enumerate(LABELS)
)


def _rests(results: Sequence[Result], what: str) -> str:
    """Say which models a section rests on."""
    have = [r for r in results if getattr(r, what)]
    folds = sorted({r.fold for r in have} - {0})
    parts = [f"folds {', '.join(map(str, folds))}"] if folds else []
    parts += ["the model of everyone"] if any(r.fold == 0 for r in have) else []
    seeds = ", ".join(map(str, sorted({r.seed for r in have})))
    return (
        f"Rests on {len(have)} model{'s' * (len(have) != 1)}: {' and '.join(parts)}; seeds {seeds}.\n\n" if have else ""
    )


def _five(results: Sequence[Result], corpus: str) -> str:
    columns = (*COLUMNS, *BESIDE)
    rows = [[name, *_cells(results, "five", corpus, columns, of)] for name, of in (*FIVE, *RECALL)]
    later = [r for r in results if r.fold in LATER_FOLDS and corpus in r.five]
    if later and not foreign(results, corpus):
        rows.insert(1, [LATER, *_cells(later, "five", corpus, columns, _uar)])
    return f"## {title(corpus)}, five classes\n\n" + table(["", *columns], rows)


def _eight(results: Sequence[Result]) -> str:
    rows: Rows = []
    for corpus in corpora(results, "eight"):
        for name, of in (*FIVE[:5], FIVE[-1]):
            rows.append([f"{title(corpus)}, {name}", *_cells(results, "eight", corpus, COLUMNS, of)])
        later = [r for r in results if r.fold in LATER_FOLDS and corpus in r.eight]
        if later and not foreign(results, corpus):
            rows.insert(1, [LATER, *_cells(later, "eight", corpus, COLUMNS, _uar)])
    return text.EIGHT + table(["", *COLUMNS], rows) if rows else ""


def _folds(results: Sequence[Result]) -> str:
    rows = []
    for name in ("five", "eight"):
        for corpus in (c for c in corpora(results, name) if not foreign(results, c)):
            tables = [by_fold(results, name, corpus, column) for column in COLUMNS]
            for fold in sorted({fold for t in tables for fold in t}):
                cells = [_uar(t[fold]) if fold in t else "-" for t in tables]
                rows.append([f"{title(corpus)}, {name} classes", str(fold), *cells])
    return text.FOLDS + _rests(results, "five") + table(["", "fold", *COLUMNS], rows) if rows else ""


def _picture(pictures: dict[str, str], name: str) -> str:
    return f"![{pictures[name]}]({name})\n" if name in pictures else ""


def _seconds(results: Sequence[Result]) -> str:
    rows = []
    for corpus in corpora(results):
        for column in COLUMNS:
            f = figures(results, "five", corpus, column)
            if f is not None:
                rows.append([title(corpus), column, *(f"{u:.3f}" for u in f.seconds)])
    return (
        text.SECONDS + _rests(results, "five") + table(["", "column", *(f"{s:g} s" for s in SECONDS)], rows)
        if rows
        else ""
    )


def _int8(results: Sequence[Result]) -> str:
    rows = []
    for corpus in corpora(results):
        q = int8(results, corpus)
        if q is not None:
            shares = [f"{q.uar_float:.4f}", f"{q.uar_int8:.4f}", f"{q.loss:.2f}", f"{q.equal:.4f}", f"{q.largest:.3f}"]
            rows.append([title(corpus), *shares, f"{q.runs}; {q.clips}"])
    head = ["", "UAR, float", "UAR, int8", "loss, points", "equal decisions", "largest difference", "models; clips"]
    return text.INT8 + _rests(results, "parity") + table(head, rows) if rows else ""


def _robustness(results: Sequence[Result]) -> str:
    rows = []
    for corpus in corpora(results):
        tables = [robustness(results, corpus, column) for column in COLUMNS]
        for name in dict.fromkeys(name for t in tables for name in t if name != "clean"):
            cells = []
            for t in tables:
                if name not in t:
                    cells.append("-")
                    continue
                unchanged = statistics.share(t[name].unchanged, sum(map(sum, t[name].confusion)))
                change = statistics.uar(t[name].confusion) - statistics.uar(t["clean"].confusion)
                cells.append(f"{unchanged:.3f} ({change:+.3f})")
            rows.append([title(corpus), name, *cells])
    return text.ROBUSTNESS + _rests(results, "robustness") + table(["", "condition", *COLUMNS], rows) if rows else ""


def _streams(results: Sequence[Result]) -> str:
    rows = []
    for corpus in corpora(results):
        found = [streams(results, corpus, column) for column in COLUMNS]
        if not any(found):
            continue
        f1 = [_f1(s.matched, s.references, s.events) if s else "-" for s in found]
        whole = [_f1(s.matched_whole, s.references, s.events) if s else "-" for s in found]
        median = [statistics.median_of_bins(s.delays, DELAY_S) if s else None for s in found]
        got = [f"{statistics.share(sum(s.delays), s.references):.3f}" if s else "-" for s in found]
        changes = [f"{statistics.share(60 * s.switches, s.speech_s):.1f}" if s else "-" for s in found]
        name = title(corpus)
        rows += [
            [name, "time to the first right event, median, s", *("-" if m is None else f"{m:.2f}" for m in median)],
            [name, "clips that get a right event", *got],
            [name, "label changes per minute of utterances", *changes],
            [name, f"event F1, begin within {COLLAR_S:g} s", *f1],
            [name, f"event F1, begin and end within {COLLAR_S:g} s", *whole],
        ]
    return text.STREAMS + _rests(results, "streams") + table(["", "", *COLUMNS], rows) if rows else ""


def _f1(matched: int, references: int, events: int) -> str:
    return f"{statistics.share(2 * matched, references + events):.3f}"


def _noise(results: Sequence[Result]) -> str:
    rows = []
    for name, kinds in (
        ("ESC-50 fold 3 without people, and background noise", ("surroundings", "background")),
        ("ESC-50 fold 3: people, without speech", ("people",)),
    ):
        found = [false_events(results, column, kinds) for column in COLUMNS]
        hours = next((f.hours for f in found if f), None)
        if hours is not None:
            cells = [f"{f.per_hour:.1f} [{f.low:.1f}, {f.high:.1f}]" if f else "-" for f in found]
            rows.append([name, f"{hours:.2f}", *cells])
    most = ", ".join(f"{sound} {events:.1f}" for sound, events in loudest_sounds(results, "online")[:12])
    said = f"\nWhere they come from (online, events a model): {most}.\n" if most else ""
    return (
        text.NOISE + _rests(without_speakers(results), "noise") + table(["", "hours", *COLUMNS], rows) + said
        if rows
        else ""
    )


def _reading(results: Sequence[Result]) -> str:
    found = [reading(results, column) for column in COLUMNS]
    if not any(found):
        return ""
    rows = [
        ["utterances", *(str(f.utterances) if f else "-" for f in found)],
        ["noticed", *(f"{f.detected:.3f}" if f else "-" for f in found)],
        ["speech time under labels but calm", *(f"{f.not_calm:.3f}" if f else "-" for f in found)],
        ["speech time uncertain", *(f"{f.uncertain:.3f}" if f else "-" for f in found)],
    ]
    return text.READING + _rests(without_speakers(results), "reading") + table(["", *COLUMNS], rows)
