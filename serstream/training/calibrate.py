"""Temperature and thresholds, fitted after quantisation on speakers that the network never saw."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.classifier import Manifest, load_model, softmax, write_manifest
from serstream.errors import ConfigError
from serstream.events import LABELS
from serstream.training.corpora import Clip, group_of, read_corpora
from serstream.training.export import export, load_recipe
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe, split
from serstream.training.score import Scored, five_classes, hear

TEMPERATURES = np.round(np.geomspace(0.25, 4.0, 81), 4)
UNCERTAIN_SHARE = 0.2
"""Share of validation clips whose posterior stays below the threshold for entering a label."""


def export_calibrated(
    run: Path, prepared: Prepared, folder: Path, *, data: Path | None, other: Path | None
) -> Manifest:
    """Export a run; calibrate it on its validation speakers below ``data``, or as ``other`` is calibrated.

    What is in ``folder`` is replaced at the end, or not at all.
    """
    recipe = load_recipe(run)
    if (data is None) == (other is None):
        raise ConfigError("export needs --data to calibrate on, or --calibration with a model folder, and not both")
    taken = {} if other is None else _calibration_of(other)
    clips = [] if data is None else _validation_clips(data, prepared, recipe)
    made_by = f"fold {recipe.fold}, seed {recipe.seed}, {recipe.epochs} epochs"
    command = f"python -m serstream.training train, export ({made_by})"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        manifest = export(run, prepared, Path(made), name=folder.name, command=command)
        changes = taken or fit_calibration(hear(Path(made), clips), manifest.emotions)
        manifest = msgspec.structs.replace(manifest, **changes)
        write_manifest(Path(made), manifest)
        folder.mkdir(exist_ok=True)
        for name in ("model.tflite", "manifest.json"):
            os.replace(Path(made) / name, folder / name)
    return manifest


def _calibration_of(model: Path) -> dict[str, float]:
    manifest = load_model(model).manifest
    fields = ("temperature", "voice_temperature", "enter_threshold", "exit_threshold")
    return {field: getattr(manifest, field) for field in fields}


def _validation_clips(data: Path, prepared: Prepared, recipe: Recipe) -> list[Clip]:
    # divided as training was: other recordings in ``data`` must not move a training speaker to this side
    parts = split(prepared.clips, recipe.fold)
    clips = [
        c
        for c in five_classes(read_corpora(data))
        if parts.get(c.speaker) == "validation" and c.corpus in recipe.corpus_shares
    ]
    if not clips:
        raise ConfigError(
            f"a run of fold {recipe.fold} has no validation speakers in {data}; give --calibration instead"
        )
    return clips


def fit_calibration(scored: Scored, emotions: list[str]) -> dict[str, float]:
    """Return temperatures and thresholds for clips that were heard at temperature 1."""
    heard = ~np.isnan(scored.posterior).any(axis=1)
    logits, voice = (
        np.log(np.maximum(scored.emotion[heard], 1e-12)),
        np.log(np.maximum(scored.voice[heard], 1e-12)),
    )
    label, sex = scored.label[heard], scored.sex[heard]
    temperature = min(TEMPERATURES, key=lambda t: _surprise(_labels(logits / t, emotions), label))
    confidence = _labels(logits / temperature, emotions).max(axis=1)
    enter = round(float(np.clip(np.quantile(confidence, UNCERTAIN_SHARE), 0.35, 0.8)), 2)
    return {
        "temperature": float(temperature),
        "voice_temperature": float(min(TEMPERATURES, key=lambda t: _surprise(_softmax_rows(voice / t), sex))),
        "enter_threshold": enter,
        "exit_threshold": round(enter * 0.75, 2),
    }


def _softmax_rows(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([softmax(row) for row in logits])


def _labels(logits: NDArray[np.float64], emotions: list[str]) -> NDArray[np.float64]:
    """Return the posterior of the five labels, as the pipeline publishes it."""
    p = _softmax_rows(logits)
    sums = np.stack(
        [sum(p[:, emotions.index(e)] for e in group_of(label) if e in emotions) for label in LABELS], axis=1
    )
    return np.asarray(sums / sums.sum(axis=1, keepdims=True))


def _surprise(p: NDArray[np.float64], actual: NDArray[np.int64]) -> float:
    """Return the mean negative logarithm of the probability given to what was asked for."""
    return float(-np.mean(np.log(np.maximum(p[np.arange(len(actual)), actual], 1e-12))))
