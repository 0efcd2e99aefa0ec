"""The report of a reproduction as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serstream.training.reproduction.choices import CHOICES
from serstream.training.reproduction.plan import MODELS
from serstream.training.reproduction.plots import CURVES
from serstream.training.reproduction.rungs import RUNGS
from serstream.training.reproduction.voices import N_RESAMPLES, WAYS

TITLE = "# The paper's models, reproduced rung by rung"
QUICK = (
    "**A quick run: a few clips and a few epochs. It shows that the code runs; its figures say nothing about models.**"
)
INTRO = """Sarsembayev, Tolganbayeva and Janybekova, *Solving emotion classification problem using deep learning*
(2020), report 25 % for an MLP, 15 % for an LSTM and 70 % for a CNN of 18 layers, on ten classes of
emotion and voice. Here the same models climb down a ladder: each rung divides the same clips more
strictly, and nothing else changes.

- **as published**: every SAVEE file three times, a random fifth of the files tests, and chooses the epoch.
- **without copies**: every file once; a random fifth tests, and chooses the epoch.
- **separate test set**: the same fifth tests; a fifth of the others chooses the epoch.
- **speaker-independent**: those who test, who choose the epoch and who train are different people; the mean of two
  folds.

The actors of fold 1 are kept out of every rung and scored by every model: the yardstick."""
LEGEND = """Chosen: the epoch with the highest accuracy on the validation clips (for the SVM, its cost C); last: the
last epoch (for the SVM, C = 1). Majority: always the most frequent class of training. UAR: unweighted
average recall. With copy, without: the test files of which a copy is, or is not, among the training
files. All in percent."""
RUNG_COLUMNS = {
    "accuracy": "accuracy",
    "accuracy_last": "last",
    "uar": "UAR",
    "uar_last": "last",
    "majority": "majority",
    "accuracy_with_copy": "with copy",
    "accuracy_without_copy": "without",
    "accuracy_ravdess": "RAVDESS",
    "accuracy_savee": "SAVEE",
    "yardstick_accuracy": "yardstick",
    "yardstick_accuracy_last": "last",
    "yardstick_uar": "UAR",
}


def markdown(summary: dict[str, Any]) -> str:
    """Return the report of what :func:`serstream.training.reproduction.command.summarise` found."""
    parts = [TITLE, *([QUICK] if summary["quick"] else []), INTRO, _basis(summary)]
    parts += ["## The ladder", _headline(summary["ladder"]), "![accuracy by rung](ladder.png)", LEGEND]
    for rung, title in RUNGS.items():
        if rows := [row for row in summary["ladder"] if row["rung"] == rung]:
            parts += [f"### {title[0].upper()}{title[1:]}", _rung(rows)]
    parts += ["## Five emotions of people that no model has heard", _yardstick(summary)]
    parts += ["## One model for all voices, or not", _voices(summary["voices"])]
    parts += ["## The paper's figures", *_pictures(summary["pictures"])]
    parts += ["## What the description leaves open, and what was chosen", "\n".join(f"- {c}" for c in CHOICES)]
    return "\n\n".join(parts) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None) -> str:
    """Return a share in percent with one decimal, a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _basis(summary: dict[str, Any]) -> str:
    clips, yardstick, runs = summary["clips"], summary["yardstick"], summary["runs"]
    text = (
        f"{clips['ravdess_speech']} clips of RAVDESS speech and {clips['savee']} of SAVEE, {yardstick} of the former "
        f"the yardstick's. The report rests on {runs['done']} of {runs['planned']} fits, seed {summary['seed']}, "
        f"which took {summary['seconds'] / 3600:.2f} hours in sum, a thread each, waiting included. Each model was "
        "fitted once on a split, so a few points between two figures are noise."
    )
    return text + (f" Missing: {', '.join(runs['missing'])}." if runs["missing"] else "")


def _headline(rows: list[dict[str, Any]]) -> str:
    found = {(row["model"], row["rung"]): percent(row["accuracy"]) for row in rows}
    head = ["accuracy, %", "paper", *RUNGS.values()]
    body = [
        [plan.title, str(plan.paper or "-"), *(found.get((model, rung), "-") for rung in RUNGS)]
        for model, plan in MODELS.items()
    ]
    return table(head, body)


def _rung(rows: list[dict[str, Any]]) -> str:
    head = ["model", "parameters", "chosen", *RUNG_COLUMNS.values()]
    body = [
        [_title(row), f"{row['parameters']:,}", _chosen(row), *(percent(row[key]) for key in RUNG_COLUMNS)]
        for row in rows
    ]
    n_train, n_test = ("/".join(map(str, rows[0][key])) for key in ("train_rows", "test_rows"))
    return f"{n_train} files train, {n_test} test.\n\n" + table(head, body)


def _title(row: dict[str, Any]) -> str:
    return MODELS[row["model"]].title


def _chosen(row: dict[str, Any]) -> str:
    each = "/".join(f"{chosen:g}" for chosen in row["chosen"])
    return f"{each} of {row['epochs']}" if row["epochs"] else f"C = {each}"


def _yardstick(summary: dict[str, Any]) -> str:
    text = (
        "The actors of fold 1, ten classes collapsed to five emotions; always the same emotion is right in 20 %. The "
        "models of every rung meet the same people, so what a rung's own test clips flatter shows here."
    )
    body = [
        [_title(row), RUNGS[row["rung"]], percent(row["yardstick_five_accuracy"]), percent(row["yardstick_five_uar"])]
        for row in summary["ladder"]
    ]
    ours = summary["ours"]
    if ours is not None:
        body.append(
            ["serstream, as int8 through the daemon's pipeline", "more corpora, other recipe", *map(percent, ours)]
        )
    else:
        text += " serstream's own network is not among them: give its scores with `--ours`."
    return text + "\n\n" + table(["model", "rung", "accuracy, %", "UAR, %"], body)


def _voices(rows: list[dict[str, Any]]) -> str:
    text = (
        'The paper says that "separating male and female voices increased [accuracy] by 15%". Here the emotion of the '
        "same test clips is told in three ways; differences are points of accuracy with a 95 % interval "
        f"({N_RESAMPLES:,} paired bootstrap resamples of the clips; what another seed or other speakers would change "
        "is not in it)."
    )
    if not rows:
        return text + "\n\nNo result yet."
    head = ["model", "rung", "clips"]
    head += [f"{way}: accuracy (UAR)" for way in WAYS.values()] + ["collapsed - five", "apart - five"]
    return text + "\n\n" + table(head, [_voices_row(row) for row in rows])


def _voices_row(row: dict[str, Any]) -> list[str]:
    cells = [_title(row), RUNGS[row["rung"]], str(row["clips"])]
    cells += [f"{percent(row[way]['accuracy'])} ({percent(row[way]['uar'])})" for way in WAYS]
    for way in ("collapsed", "apart"):
        d = row[f"{way}_minus_five"]
        cells.append(f"{100 * d['difference']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]")
    return cells


def _pictures(files: list[str]) -> list[str]:
    said = {
        file: f"Figure {i}: loss of the {MODELS[m].title}, as published"
        for i, (file, m) in enumerate(CURVES.items(), 1)
    }
    said |= {f"predicted_{rung}.png": f"Predicted against actual values, CNN, {RUNGS[rung]}" for rung in RUNGS}
    return [f"{said[file]}:\n\n![{said[file]}]({file})" for file in files if file in said] or ["No result yet."]
