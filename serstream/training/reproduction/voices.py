"""The paper's claim about voices, that classes of emotion *and* voice help to tell the emotion.

On one split, the same clips are told by a model of ten classes of which the emotion is kept, by a model of five, and
by two models of five, each of which knows the voices of one sex alone and hears no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.training.reproduction.figures import Classes, accuracy, collapsed, uar
from serstream.training.reproduction.ladder import Bench, Result
from serstream.training.reproduction.plan import APART, VOICE_MODELS
from serstream.training.reproduction.rungs import RUNGS

N_RESAMPLES = 10_000
WAYS = {
    "collapsed": "ten classes, collapsed to five",
    "five": "five classes, all voices",
    "apart": "five classes, women and men apart",
}


def paired_bootstrap(
    a: NDArray[np.bool_], b: NDArray[np.bool_], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float, float]:
    """Return accuracy of ``a`` minus that of ``b`` and the ends of its 95 % interval.

    Parameters
    ----------
    a, b : ndarray of shape (n,), bool
        Which clips each of two systems got right; the same clips in the same order.
    """
    difference = a.astype(np.float64) - b
    rng = np.random.default_rng(seed)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(n_resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def compare(bench: Bench, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each model and rung of which everything that is compared has a result."""
    rows = []
    for model in VOICE_MODELS:
        for rung in RUNGS:
            chosen = [r for r in results if (r.job.model, r.job.split.rung) == (model, rung)]
            if any(r.job.target != "ten" for r in chosen) and (heard := _heard(bench, chosen)):
                rows.append({"model": model, "rung": rung} | _row(*heard))
    return rows


def _heard(bench: Bench, results: list[Result]) -> tuple[Classes, dict[str, Classes]] | None:
    """Return what the test clips of all splits are and were called; None where a part is missing."""
    actual: list[Classes] = []
    called: dict[str, list[Classes]] = {way: [] for way in WAYS}
    for name in {r.job.split.name: None for r in results}:
        by_target = {r.job.target: r for r in results if r.job.split.name == name}
        if len(by_target) < 4:
            return None
        rows = by_target["ten"].job.split.test
        apart = np.full(rows.size, -1, np.int64)
        for voice, target in enumerate(APART):
            apart[bench.voice[rows] == voice] = by_target[target].arrays["test"]
        actual.append(bench.emotion[rows])
        called["collapsed"].append(collapsed(by_target["ten"].arrays["test"]))
        called["five"].append(by_target["five"].arrays["test"])
        called["apart"].append(apart)
    return np.concatenate(actual), {way: np.concatenate(parts) for way, parts in called.items()}


def _row(actual: Classes, called: dict[str, Classes]) -> dict[str, Any]:
    row: dict[str, Any] = {"clips": len(actual)}
    for way, predicted in called.items():
        row[way] = {"accuracy": accuracy(actual, predicted), "uar": uar(actual, predicted)}
    right = {way: predicted == actual for way, predicted in called.items()}
    for way in ("collapsed", "apart"):
        low_to_high = paired_bootstrap(right[way], right["five"])
        row[f"{way}_minus_five"] = dict(zip(("difference", "low", "high"), low_to_high, strict=True))
    return row
