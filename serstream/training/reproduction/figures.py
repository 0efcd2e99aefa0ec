"""The figures of the ladder, computed from predictions: shares from 0 to 1, None where there is nothing to count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.events import LABELS
from serstream.training.corpora import Clip
from serstream.training.reproduction.ladder import Bench, Result
from serstream.training.reproduction.plan import MODELS
from serstream.training.reproduction.rungs import RUNGS

Classes = NDArray[np.int64]


def accuracy(actual: Classes, predicted: Classes) -> float | None:
    """Return the share of equal entries."""
    return float(np.mean(actual == predicted)) if actual.size else None


def uar(actual: Classes, predicted: Classes) -> float | None:
    """Return the unweighted average recall over the classes that occur."""
    recalls = [float(np.mean(predicted[actual == k] == k)) for k in np.unique(actual)]
    return float(np.mean(recalls)) if recalls else None


def majority(train: Classes, test: Classes) -> float:
    """Return the accuracy of always naming the most frequent class of the training rows, the first of equals."""
    return float(np.mean(test == np.argmax(np.bincount(train))))


def of_result(bench: Bench, clips: list[Clip], result: Result) -> dict[str, float | None]:
    """Return the figures of one fit of ten classes on its own split."""
    split, found = result.job.split, result.arrays
    labels = bench.labels("ten")
    test, yardstick = labels[split.test], labels[split.yardstick]
    copied = np.isin(split.test, split.train)
    savee = np.array([clips[i].corpus == "savee" for i in split.test], bool)

    def among(rows: NDArray[np.bool_]) -> float | None:
        return accuracy(test[rows], found["test"][rows])

    return {
        "accuracy": accuracy(test, found["test"]),
        "accuracy_last": accuracy(test, found["test_last"]),
        "uar": uar(test, found["test"]),
        "uar_last": uar(test, found["test_last"]),
        "majority": majority(labels[split.train], test),
        "accuracy_with_copy": among(copied),
        "accuracy_without_copy": among(~copied),
        "accuracy_ravdess": among(~savee),
        "accuracy_savee": among(savee),
        "yardstick_accuracy": accuracy(yardstick, found["yardstick"]),
        "yardstick_accuracy_last": accuracy(yardstick, found["yardstick_last"]),
        "yardstick_uar": uar(yardstick, found["yardstick"]),
        "yardstick_majority": majority(labels[split.train], yardstick),
        "yardstick_five_accuracy": accuracy(collapsed(yardstick), collapsed(found["yardstick"])),
        "yardstick_five_uar": uar(collapsed(yardstick), collapsed(found["yardstick"])),
    }


def collapsed(classes: Classes) -> Classes:
    """Return the emotion of each class of emotion and voice."""
    return classes % len(LABELS)


def ladder(bench: Bench, clips: list[Clip], results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each rung and model that has a result; the mean where a rung has several splits."""
    rows = []
    for rung in RUNGS:
        for model in MODELS:
            chosen = [r for r in results if (r.job.split.rung, r.job.model, r.job.target) == (rung, model, "ten")]
            if chosen:
                rows.append({"rung": rung, "model": model} | _row(bench, clips, chosen))
    return rows


def _row(bench: Bench, clips: list[Clip], results: Sequence[Result]) -> dict[str, Any]:
    each = [of_result(bench, clips, result) for result in results]
    about = {
        "splits": [r.job.split.name for r in results],
        "chosen": [r.about["chosen"] for r in results],
        "epochs": results[0].job.epochs,
        "parameters": results[0].about["parameters"],
        "train_rows": [len(r.job.split.train) for r in results],
        "test_rows": [len(r.job.split.test) for r in results],
    }
    figures = {key: _mean([e[key] for e in each]) for key in each[0]}
    return about | figures | {"accuracy_of_splits": [_rounded(e["accuracy"]) for e in each]}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return _rounded(float(np.mean(present))) if present else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def confusion(bench: Bench, results: Sequence[Result]) -> NDArray[np.int64]:
    """Return how often each class (row) was called what (column), the splits of a rung together; (10, 10)."""
    counts = np.zeros((2 * len(LABELS), 2 * len(LABELS)), np.int64)
    for result in results:
        np.add.at(counts, (bench.labels("ten")[result.job.split.test], result.arrays["test"]), 1)
    return counts
