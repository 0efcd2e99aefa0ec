"""Temperature and thresholds, fitted after quantisation on speakers that the network never saw."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.analysis import analyze
from serstream.config import Config, DecisionConfig
from serstream.errors import ConfigError
from serstream.events import LABELS
from serstream.manifest import Manifest, Model, load_model, write_manifest
from serstream.posteriors import softmax
from serstream.recordings import read_file
from serstream.training.corpora import Clip, group_of, read_aloud, read_corpora
from serstream.training.export import export, load_recipe
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe, split
from serstream.training.score import Scored, five_classes, hear

TEMPERATURES = np.round(np.geomspace(0.25, 4.0, 81), 4)
UNCERTAIN_SHARE = 0.2
"""Share of validation clips whose posterior stays below the threshold for entering a label."""
CALM_WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
MOVED_SHARE = 0.15
"""Share of read speech that may be called anything but calm: corpora of acted moods make a network expect moods."""
CALIBRATED = ("temperature", "voice_temperature", "enter_threshold", "exit_threshold", "priors")


def export_calibrated(
    run: Path, prepared: Prepared, folder: Path, *, data: Path | None, others: Sequence[Path]
) -> Manifest:
    """Export a run; calibrate it on its validation speakers below ``data``, or by the medians of ``others``.

    What is in ``folder`` is replaced at the end, or not at all.
    """
    recipe = load_recipe(run)
    if (data is None) == (not others):
        raise ConfigError("export needs --data to calibrate on, or --calibration with model folders, and not both")
    taken = _medians([load_model(folder).manifest for folder in others])
    clips = [] if data is None else _validation_clips(data, prepared, recipe)
    made_by = f"fold {recipe.fold}, seed {recipe.seed}, {recipe.epochs} epochs"
    command = f"python -m serstream.training train, export ({made_by})"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        manifest = export(run, prepared, Path(made), name=folder.name, command=command)
        changes = taken or fit_calibration(hear(Path(made), clips), manifest.emotions)
        manifest = msgspec.structs.replace(manifest, **changes)
        write_manifest(Path(made), manifest)
        if data is not None:
            manifest = msgspec.structs.replace(manifest, priors=fit_priors(Path(made), read_corpora(data)))
            write_manifest(Path(made), manifest)
        folder.mkdir(exist_ok=True)
        for name in ("model.tflite", "manifest.json"):
            os.replace(Path(made) / name, folder / name)
    return manifest


def _medians(manifests: Sequence[Manifest]) -> dict[str, Any]:
    if not manifests:
        return {}
    found: dict[str, Any] = {
        field: median(getattr(m, field) for m in manifests) for field in CALIBRATED if field != "priors"
    }
    labels = sorted({label for m in manifests for label in m.priors})
    return found | {"priors": {label: median(m.priors.get(label, 1.0) for m in manifests) for label in labels}}


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


def fit_priors(folder: Path, clips: Sequence[Clip]) -> dict[str, float]:
    """Return the least weight of calm by which read speech is seldom called anything else, at most the largest tried.

    Without read speech among the clips there are no priors.
    """
    read, model = read_aloud(clips, test=False), load_model(folder)
    if not read:
        return {}
    for weight in CALM_WEIGHTS:
        config = Config(decision=DecisionConfig(priors={"calm": weight}))
        if _moved_share(model, config, read) <= MOVED_SHARE:
            break
    return {"calm": weight}


def _moved_share(model: Model, config: Config, clips: Sequence[Clip]) -> float:
    """Return the share of speech in some clips under a label other than calm."""
    steps = [step for clip in clips for step in analyze(read_file(clip.path), model, config).analysis.steps]
    moved = sum(step.speech for step in steps if step.state in LABELS and step.state != "calm")
    return moved / sum(step.speech for step in steps)


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
