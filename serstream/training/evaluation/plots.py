"""The pictures of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serstream.events import LABELS
from serstream.training.evaluation import statistics
from serstream.training.evaluation.bars import RAVDESS
from serstream.training.evaluation.counts import COLUMNS, SECONDS, Result
from serstream.training.evaluation.results import Figures, corpora, figures, robustness

COLOURS = {"none": "#777777", "online": "#3366aa", "enrolled": "#cc6633"}
TITLES = {"ravdess_speech": "RAVDESS", "crema_d": "CREMA-D", "savee": "SAVEE"}


def title(corpus: str) -> str:
    """Return the name that people know a corpus by."""
    return TITLES.get(corpus, corpus)


def draw(results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Draw what there are counts for; return the file name and a description of each picture."""
    pictures: dict[str, str] = {}
    pooled = {c: {k: f for k in COLUMNS if (f := figures(results, "five", c, k))} for c in corpora(results)}
    pooled = {corpus: columns for corpus, columns in pooled.items() if columns}
    if pooled:
        _save(_confusions(pooled), folder / "confusion.png")
        _save(_reliability(pooled), folder / "reliability.png")
        _save(_seconds(pooled), folder / "seconds.png")
        pictures |= {
            "confusion.png": "What was asked for, and what was heard, in percent of each row",
            "reliability.png": "How often an answer is right, by the confidence that it came with",
            "seconds.png": "UAR so long after speech began",
        }
    if any(RAVDESS in r.robustness for r in results):
        _save(_robustness(results), folder / "robustness.png")
        pictures["robustness.png"] = "Share of decisions that a condition leaves as they are, RAVDESS"
    return pictures


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _confusions(pooled: dict[str, dict[str, Figures]]) -> Figure:
    figure = _figure(10.5, 3.6 * len(pooled))
    axes = figure.subplots(len(pooled), len(COLUMNS), squeeze=False)
    for row, (corpus, columns) in zip(axes, pooled.items(), strict=True):
        for ax, column in zip(row, COLUMNS, strict=True):
            if column not in columns:
                ax.set_axis_off()
                continue
            _confusion(ax, columns[column])
            ax.set_title(f"{title(corpus)}, {column}: UAR {columns[column].uar:.3f}", fontsize=10)
        row[0].set_ylabel("asked for")
    for ax in axes[-1]:
        ax.set_xlabel("heard, % of each row")
    return figure


def _confusion(ax: Any, f: Figures) -> None:
    shares = f.confusion / np.maximum(f.confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, k), share in np.ndenumerate(shares):
        ax.text(k, i, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.55 else "black")
    ax.set_xticks(range(len(LABELS) + 1), [*LABELS, "nothing"], rotation=35, ha="right", fontsize=8)
    ax.set_yticks(range(len(LABELS)), LABELS, fontsize=8)
    ax.tick_params(length=0)


def _panels(pooled: dict[str, dict[str, Figures]]) -> tuple[Figure, list[Any]]:
    figure = _figure(3.6 * len(pooled) + 0.6, 4.0)
    axes = list(figure.subplots(1, len(pooled), squeeze=False, sharey=True)[0])
    for ax, corpus in zip(axes, pooled, strict=True):
        ax.set_title(title(corpus), fontsize=10)
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _reliability(pooled: dict[str, dict[str, Figures]]) -> Figure:
    figure, axes = _panels(pooled)
    for ax, columns in zip(axes, pooled.values(), strict=True):
        ax.plot([0.2, 1], [0.2, 1], color="#aaaaaa", linewidth=1, linestyle="--")
        for column, f in columns.items():
            n, confidence, right = f.bins[f.bins[:, 0] >= 0.01 * f.bins[:, 0].sum()].T
            label = f"{column}, error {f.calibration_error:.3f}"
            ax.plot(confidence / n, right / n, "o-", color=COLOURS[column], markersize=3.5, linewidth=1.3, label=label)
        ax.set(xlim=(0.18, 1.02), ylim=(0, 1.02), xlabel="confidence")
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    axes[0].set_ylabel("share of right answers")
    return figure


def _seconds(pooled: dict[str, dict[str, Figures]]) -> Figure:
    figure, axes = _panels(pooled)
    for ax, columns in zip(axes, pooled.values(), strict=True):
        for column, f in columns.items():
            ax.plot(SECONDS, f.seconds, "o-", color=COLOURS[column], markersize=3.5, linewidth=1.3, label=column)
        ax.axhline(1 / len(LABELS), color="#aaaaaa", linewidth=1, linestyle="--")
        ax.set(ylim=(0, 1), xlabel="seconds since speech began")
    axes[0].set_ylabel("UAR (dashed: chance)")
    axes[0].legend(fontsize=8, loc="upper left", frameon=False)
    return figure


def _robustness(results: Sequence[Result]) -> Figure:
    tables = {column: robustness(results, RAVDESS, column) for column in COLUMNS}
    names = [n for n in dict.fromkeys(n for t in tables.values() for n in t) if n != "clean"]
    figure = _figure(8.0, 0.42 * len(names) + 1.2)
    ax = figure.subplots()
    at, height = np.arange(len(names)), 0.26
    for i, (column, table) in enumerate(tables.items()):
        kept = [(k, table[n]) for k, n in enumerate(names) if n in table]
        shares = [statistics.share(c.unchanged, sum(map(sum, c.confusion))) for _, c in kept]
        where = np.array([at[k] for k, _ in kept]) + (i - 1) * height
        ax.barh(where, shares, height * 0.92, color=COLOURS[column], label=column)
    ax.set_yticks(at, names, fontsize=9)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="share of decisions unchanged")
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.08), ncols=3, frameon=False)
    return figure
