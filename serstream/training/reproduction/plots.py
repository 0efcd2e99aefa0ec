"""The paper's figures 1 to 3, predicted against actual values, and the ladder, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from serstream.training.reproduction.figures import confusion
from serstream.training.reproduction.ladder import Bench, Result
from serstream.training.reproduction.plan import MODELS
from serstream.training.reproduction.rungs import CLASSES, RUNGS

CURVES = {"figure1_mlp.png": "mlp", "figure2_lstm.png": "lstm", "figure3_cnn.png": "cnn"}
DPI = 100


def save(folder: Path, bench: Bench, results: Sequence[Result], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write the figures of which there are results; return the names of their files."""
    ten = [r for r in results if r.job.target == "ten"]
    drawn: dict[str, Any] = {"ladder.png": _ladder(rows)} if rows else {}
    for file, model in CURVES.items():
        if found := [r for r in ten if (r.job.model, r.job.split.rung) == (model, "published")]:
            drawn[file] = _curves(model, found[0])
    for rung in ("published", "speaker_independent"):
        if found := [r for r in ten if (r.job.model, r.job.split.rung) == ("cnn", rung)]:
            drawn[f"predicted_{rung}.png"] = _confusion(confusion(bench, found), RUNGS[rung])
    for file, figure in drawn.items():
        figure.savefig(folder / file, dpi=DPI, metadata={"Software": None})
    return list(drawn)


def _curves(model: str, result: Result) -> Any:
    """Draw the loss of training and of validation, an epoch each."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for curve, label in (("loss", "training"), ("val_loss", "validation (= test)")):
        values = result.arrays[f"curve_{curve}"]
        axes.plot(np.arange(1, values.size + 1), values, label=label)
    axes.set(xlabel="epoch", ylabel="loss: categorical cross-entropy", title=f"{MODELS[model].title}, as published")
    axes.legend()
    return figure


def _confusion(counts: NDArray[np.int64], title: str) -> Any:
    """Draw what each class was called, as shares of its clips."""
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(CLASSES))
    axes.set_xticks(ticks, CLASSES, rotation=45, ha="right")
    axes.set_yticks(ticks, CLASSES)
    for (i, j), n in np.ndenumerate(counts):
        if n:
            axes.text(j, i, str(n), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    axes.set(xlabel="predicted", ylabel="actual", title=f"CNN, {title}: clips, coloured by share of the row")
    figure.colorbar(image)
    return figure


def _ladder(rows: Sequence[dict[str, Any]]) -> Any:
    """Draw the accuracy of every model, a group of bars a rung, with the paper's figures as crosses."""
    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    found = {(row["model"], row["rung"]): row for row in rows}
    width = 0.8 / len(MODELS)
    for i, (model, plan) in enumerate(MODELS.items()):
        at = {j + (i - (len(MODELS) - 1) / 2) * width: found.get((model, rung)) for j, rung in enumerate(RUNGS)}
        bars = {x: 100 * row["accuracy"] for x, row in at.items() if row is not None}
        axes.bar(list(bars), list(bars.values()), width, label=plan.title)
        if plan.paper is not None:
            axes.plot(min(at), plan.paper, "kx", label="in the paper" if model == "cnn" else None)
    axes.set_xticks(range(len(RUNGS)), list(RUNGS.values()))
    axes.set(ylabel="accuracy of ten classes, %", title="The same models, rung by rung")
    axes.legend(fontsize="small")
    return figure
