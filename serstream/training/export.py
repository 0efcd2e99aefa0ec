"""From a trained network to ``model.tflite`` (int8, signatures ``trunk`` and ``head``) and its manifest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.events import LABELS
from serstream.manifest import Manifest, write_manifest
from serstream.training.corpora import group_of
from serstream.training.crops import CropSampler, trained_emotions
from serstream.training.fit import rows_of
from serstream.training.network import build_stream, set_stream_weights
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import normalisation

SPEECH_THRESHOLD = 0.98
"""The least of those tried by which the noise that fold 1 was trained on raises five emotions an hour, people apart."""
N_CALIBRATION_BATCHES = 6

Inputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""``frames`` and ``weights`` of whole windows, as the network takes them in training."""


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
    return quantise(model, recipe, [sampler.batch(1_000_000, i)[:2] for i in range(N_CALIBRATION_BATCHES)])


def quantise(model: keras.Model, recipe: Recipe, batches: Sequence[Inputs]) -> bytes:
    """Return the network in int8; representative are the inputs ``batches``."""
    stream = build_stream(recipe.shape, None, model.inputs[0].shape[-1])
    set_stream_weights(stream, model.get_layer("trunk"))
    head = model.get_layer("head")
    pool = keras.Model(model.inputs, model.get_layer("speech_pooling").output)
    with tempfile.TemporaryDirectory() as folder:
        _save_signatures(stream, head, recipe.step_frames, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["trunk", "head"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.representative_dataset = lambda: _representative(stream, pool, recipe, batches)
        return bytes(converter.convert())


def _save_signatures(stream: keras.Model, head: keras.Model, step_frames: int, folder: str) -> None:
    module = tf.Module()
    # Keras 3 wraps its variables; a SavedModel keeps only those that a tf.Module lists itself.
    module.variables_of_both = [v.value for v in stream.variables + head.variables]
    shapes = {name: (None, 1, t.shape[2] or step_frames, t.shape[3]) for name, t in stream.input.items()}

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()])  # type: ignore[untyped-decorator]
    def run_trunk(*tensors: Any) -> Any:
        return stream(dict(zip(shapes, tensors, strict=True)), training=False)

    @tf.function(input_signature=[tf.TensorSpec(head.input_shape, tf.float32, "pooled")])  # type: ignore[untyped-decorator]
    def run_head(pooled: Any) -> Any:
        return head(pooled, training=False)

    tf.saved_model.save(module, folder, signatures={"trunk": run_trunk, "head": run_head})


def _representative(
    stream: keras.Model, pool: keras.Model, recipe: Recipe, batches: Sequence[Inputs]
) -> Iterator[tuple[str, dict[str, Any]]]:
    step = recipe.step_frames
    for frames, weights in batches:
        x = np.clip(frames, -6.0, 6.0)[:, None]
        tensors = {
            name: np.zeros((len(x), *t.shape[1:]), np.float32) for name, t in stream.input.items() if name != "frames"
        }
        tensors = stream.predict_on_batch(tensors | {"frames": x[:, :, x.shape[2] % step : -step]})
        del tensors["activations"], tensors["gate"]
        yield "trunk", tensors | {"frames": x[:, :, -step:]}
        yield "head", {"pooled": pool([frames, weights]).numpy()}


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
