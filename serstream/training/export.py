"""From a trained network to ``model.tflite`` (int8, signatures ``trunk`` and ``head``) and its manifest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf

from serstream.classifier import Manifest, write_manifest
from serstream.errors import ConfigError
from serstream.events import LABELS
from serstream.training.corpora import group_of
from serstream.training.crops import CropSampler, trained_emotions
from serstream.training.fit import rows_of
from serstream.training.network import build_head, build_trunk
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import normalisation

SPEECH_THRESHOLD = 0.95
"""Chosen on ESC-50 fold 2 with networks that heard fold 1 alone: noise stays below it, and most acted speech above."""
N_CALIBRATION_BATCHES = 6


def load_recipe(run: Path) -> Recipe:
    """Return the recipe of a run that has a trained network.

    Raises
    ------
    ConfigError
        If there is no such run.
    """
    if not (run / "checkpoint.keras").is_file():
        raise ConfigError(f"{run} holds no trained network; run `python -m serstream.training train {run}` first")
    return msgspec.json.decode((run / "recipe.json").read_bytes(), type=Recipe)


def load_run(run: Path) -> tuple[keras.Model, Recipe]:
    """Return the trained network and the recipe of a run; raises as :func:`load_recipe` does."""
    recipe = load_recipe(run)
    return keras.saving.load_model(run / "checkpoint.keras", compile=False), recipe


def convert(model: keras.Model, recipe: Recipe, prepared: Prepared) -> bytes:
    """Quantise to int8 with training speakers' crops as representative data; return the flat buffer."""
    train = rows_of(prepared, recipe, "train")
    sampler = CropSampler(prepared, train, recipe, normalisation(prepared, train))
    step_window = recipe.shape.receptive_field_frames + recipe.step_frames - recipe.shape.stride
    trunk = build_trunk(recipe.shape, step_window, prepared.front_end.n_mfcc)
    trunk.set_weights(model.get_layer("trunk").get_weights())
    head = build_head(recipe.shape, len(sampler.emotions))
    head.set_weights(model.get_layer("head").get_weights())
    pool = keras.Model(model.inputs, model.get_layer("speech_pooling").output)
    batches = [sampler.batch(1_000_000, i) for i in range(N_CALIBRATION_BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        _save_signatures(trunk, head, step_window, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["trunk", "head"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.representative_dataset = lambda: _representative(batches, pool, step_window)
        return bytes(converter.convert())


def _save_signatures(trunk: keras.Model, head: keras.Model, step_window: int, folder: str) -> None:
    module = tf.Module()
    # Keras 3 wraps its variables; a SavedModel keeps only those that a tf.Module lists itself.
    module.variables_of_both = [v.value for v in trunk.variables + head.variables]
    n_mfcc, n_pooled = trunk.input_shape[-1], head.input_shape[-1]

    @tf.function(input_signature=[tf.TensorSpec((1, step_window, n_mfcc), tf.float32, "frames")])  # type: ignore[untyped-decorator]
    def run_trunk(frames: Any) -> Any:
        return {"activations": trunk(frames, training=False)}

    @tf.function(input_signature=[tf.TensorSpec((1, n_pooled), tf.float32, "pooled")])  # type: ignore[untyped-decorator]
    def run_head(pooled: Any) -> Any:
        return head(pooled, training=False)

    tf.saved_model.save(module, folder, signatures={"trunk": run_trunk, "head": run_head})


def _representative(batches: list[Any], pool: keras.Model, step_window: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for batch in batches:
        pooled = pool([batch.frames, batch.weights]).numpy()
        for i in range(len(pooled)):
            yield "trunk", {"frames": np.clip(batch.frames[i : i + 1, -step_window:], -6.0, 6.0)}
            yield "head", {"pooled": pooled[i : i + 1]}


def export(run: Path, prepared: Prepared, folder: Path, *, name: str, command: str) -> Manifest:
    """Write ``model.tflite`` and ``manifest.json``; temperature and thresholds are placeholders until calibrated."""
    model, recipe = load_run(run)
    content = convert(model, recipe, prepared)
    scale = np.load(run / "normalisation.npz")
    emotions = trained_emotions(prepared, recipe)
    manifest = Manifest(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        emotions=list(emotions),
        groups={label: [e for e in group_of(label) if e in emotions] for label in LABELS},
        front_end=prepared.front_end,
        segment_frames=recipe.segment_frames,
        step_frames=recipe.step_frames,
        min_segment_frames=recipe.min_segment_frames,
        evidence_frames=recipe.evidence_frames,
        context_frames=recipe.shape.receptive_field_frames - recipe.shape.stride,
        stride=recipe.shape.stride,
        mean=[round(float(x), 5) for x in scale["mean"]],
        std=[round(float(x), 5) for x in scale["std"]],
        ordinary=[round(float(x), 5) for x in scale["ordinary"]],
        prior_frames=recipe.prior_frames,
        profile_frames=recipe.profile_frames,
        history_frames=recipe.history_frames,
        temperature=1.0,
        voice_temperature=1.0,
        speech_threshold=SPEECH_THRESHOLD,
        enter_threshold=0.5,
        exit_threshold=0.35,
        priors={},
        corpora=sorted(recipe.corpus_shares),
        licence=recipe.licence,
        scores={},
        command=command,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(content)
    write_manifest(folder, manifest)
    return manifest
