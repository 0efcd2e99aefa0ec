"""Recordings through the runtime's own pipeline, and the figures that come of it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.analysis import analyze
from serstream.config import Config
from serstream.events import LABELS
from serstream.manifest import Model, load_model
from serstream.recordings import read_file
from serstream.training.corpora import SEXES, Clip

Vectors = NDArray[np.float64]


class Scored(NamedTuple):
    """What the runtime heard in some clips; a row of NaN where it heard no speech.

    ``emotion`` (n, n_emotions), ``posterior`` (n, 5), ``voice`` (n, 2), ``label`` and ``sex`` (n,) are indices of what
    was asked of the speaker, and ``uncertain`` (n,) says whether no step ended in an emotion.
    """

    emotion: Vectors
    posterior: Vectors
    voice: Vectors
    label: NDArray[np.int64]
    sex: NDArray[np.int64]
    uncertain: NDArray[np.bool_]


_worker: dict[str, Any] = {}


def _start_worker(model: Model, runtime: str) -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.update(model=model, config=Config(runtime=runtime))  # type: ignore[arg-type]


def _hear(path: Path) -> tuple[list[float], list[float], list[float], bool]:
    model, config = _worker["model"], _worker["config"]
    heard = analyze(read_file(path), model, config)
    n = len(model.manifest.emotions)
    if heard.emotion is None or heard.posterior is None or heard.voice is None:
        return [np.nan] * n, [np.nan] * len(LABELS), [np.nan] * 2, True
    uncertain = not any(s.state in LABELS for s in heard.analysis.steps)
    return heard.emotion, heard.posterior, heard.voice, uncertain


def five_classes(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips that the five-class tables score: RAVDESS without neutral, other corpora with it as calm."""
    return [c for c in clips if c.emotion in LABELS or (c.emotion == "neutral" and not c.corpus.startswith("ravdess"))]


def asked_for(clip: Clip, classes: Sequence[str]) -> int:
    """Return the index of what was asked of the speaker; neutral counts as calm where it has no class."""
    return classes.index(clip.emotion if clip.emotion in classes else "calm")


def label_of(clip: Clip) -> int:
    """Return the index of the label that was asked of the speaker."""
    return asked_for(clip, LABELS)


def hear(folder: Path, clips: Sequence[Clip], *, jobs: int = 2, runtime: str = "litert") -> Scored:
    """Run clips of the five classes through the model of a folder."""
    with multiprocessing.get_context("spawn").Pool(jobs, _start_worker, (load_model(folder), runtime)) as pool:
        rows = pool.map(_hear, [c.path for c in clips], chunksize=16)
    emotion, posterior, voice, uncertain = (np.array(column) for column in zip(*rows, strict=True))
    label = np.array([label_of(c) for c in clips])
    return Scored(emotion, posterior, voice, label, np.array([SEXES.index(c.sex) for c in clips]), uncertain)


def answers(probabilities: Vectors) -> NDArray[np.int64]:
    """Return the index of the largest of each row, -1 for a row of NaN."""
    return np.where(np.isnan(probabilities).any(axis=1), -1, np.argmax(probabilities, axis=1))


def recalls(actual: NDArray[np.int64], probabilities: Vectors) -> list[float]:
    """Return the recall of each class that occurs; a row of NaN counts as wrong."""
    predicted = answers(probabilities)
    return [float(np.mean(predicted[actual == k] == k)) for k in np.unique(actual)]


def calibration_error(actual: NDArray[np.int64], probabilities: Vectors, n_bins: int = 15) -> float:
    """Return the expected calibration error of the largest probability (Guo et al. 2017), equal-width bins."""
    rows = ~np.isnan(probabilities).any(axis=1)
    confidence, correct = (
        probabilities[rows].max(axis=1),
        np.argmax(probabilities[rows], axis=1) == actual[rows],
    )
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = [abs(confidence[bins == b].mean() - correct[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins)]
    return float(np.sum(gaps))


def summary(scored: Scored) -> dict[str, Any]:
    """Return the figures of a table: shares from 0 to 1."""
    predicted = answers(scored.posterior)
    heard = predicted >= 0
    per_label = recalls(scored.label, scored.posterior)
    present = [LABELS[k] for k in np.unique(scored.label)]
    confusion = [
        [int(np.sum((scored.label == a) & (predicted == p))) for p in (*range(len(LABELS)), -1)]
        for a in range(len(LABELS))
    ]
    figures = {
        "clips": len(scored.label),
        "uar": np.mean(per_label),
        "accuracy": np.mean(predicted == scored.label),
        "voice_uar": np.mean(recalls(scored.sex, scored.voice)),
        "calibration_error": calibration_error(scored.label, scored.posterior),
        "no_speech": np.mean(~heard),
        "uncertain": np.mean(scored.uncertain & heard),
    }
    rounded = {k: round(float(v), 4) if k != "clips" else v for k, v in figures.items()}
    recall = {name: round(r, 4) for name, r in zip(present, per_label, strict=True)}
    return rounded | {"recall": recall, "confusion": confusion}
