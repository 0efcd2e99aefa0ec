"""Fit a network by a recipe: a fixed number of epochs, resumable, the same result for the same seed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.events import LABELS
from serstream.training.corpora import group_of
from serstream.training.crops import Batch, CropSampler
from serstream.training.network import build
from serstream.training.prepare import Prepared
from serstream.training.progress import Progress
from serstream.training.recipe import Recipe, split
from serstream.training.scaling import normalisation


def single_thread() -> None:
    """Use one core: two trainings side by side are faster than one after another on two."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def rows_of(prepared: Prepared, recipe: Recipe, part: str) -> NDArray[np.int64]:
    """Return the clips of its corpora by the speakers that are ``train``, ``validation`` or ``test`` under a recipe."""
    parts = split(prepared.clips, recipe.fold)
    # noise is nobody's, and trained on by every fold
    chosen = [
        c.corpus in recipe.corpus_shares and (parts.get(c.speaker) if c.emotion else "train") == part
        for c in prepared.clips
    ]
    return np.flatnonzero(chosen)


def fit(prepared: Prepared, recipe: Recipe, run: Path) -> keras.Model:
    """Train, or go on with, the run in the folder ``run``; return the trained network.

    Writes ``recipe.json``, ``normalisation.npz``, ``log.jsonl`` and, every epoch, ``checkpoint.keras``.

    Raises
    ------
    ConfigError
        If the folder holds a run of another recipe, or too little is prepared of what the recipe asks for.
    """
    recipe = _with_what_there_is(recipe, prepared)
    _refuse_other_recipe(run, recipe)
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    train = rows_of(prepared, recipe, "train")
    scale = normalisation(prepared, train)
    sampler = CropSampler(prepared, train, recipe, scale)
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_bytes(msgspec.json.format(msgspec.json.encode(recipe)))
    np.savez(run / "normalisation.npz", **scale._asdict())
    validation = sampler.usable(rows_of(prepared, recipe, "validation"))
    watched = sampler.whole_clips(validation) if validation.size else None
    model, first_epoch = _restore(run, recipe, prepared.front_end.n_mfcc, len(sampler.emotions))
    step = _compile_step(model, recipe, sampler.emotions)
    with Progress(f"training {run.name}", recipe.epochs * recipe.n_steps, first_epoch * recipe.n_steps) as progress:
        for epoch in range(first_epoch, recipe.epochs):
            started = time.monotonic()
            loss = _run_epoch(model, step, sampler, recipe, epoch, progress)
            entry = {"epoch": epoch + 1, "loss": round(loss, 4), "seconds": round(time.monotonic() - started, 1)}
            if watched is not None:
                entry["validation_uar"] = round(uar(model, watched), 4)
            _save(model, run, entry)
            progress.say(json.dumps(entry))
    return model


def _with_what_there_is(recipe: Recipe, prepared: Prepared) -> Recipe:
    """Leave corpora out that were not prepared, so that recipe and manifest say what was trained on."""
    there = {clip.corpus for clip in prepared.clips}
    shares = {corpus: share for corpus, share in recipe.corpus_shares.items() if corpus in there}
    if not shares:
        asked = ", ".join(recipe.corpus_shares)
        raise ConfigError(f"nothing is prepared of {asked}; prepare one of them, or name others in corpus_shares")
    if missing := sorted(set(recipe.corpus_shares) - set(shares)):
        print(f"not prepared, so left out: {', '.join(missing)}", file=sys.stderr)
    if unasked := sorted(there - set(shares)):
        print(f"prepared, but not in corpus_shares, so left out: {', '.join(unasked)}", file=sys.stderr)
    return msgspec.structs.replace(recipe, corpus_shares=shares)


def _refuse_other_recipe(run: Path, recipe: Recipe) -> None:
    """Do not go on with a network that may have heard the speakers whom this recipe leaves out."""
    if not (run / "checkpoint.keras").is_file():
        return
    begun = msgspec.json.decode((run / "recipe.json").read_bytes(), type=Recipe)
    if changed := [name for name in Recipe.__struct_fields__ if getattr(begun, name) != getattr(recipe, name)]:
        raise ConfigError(f"{run} was begun with another recipe ({', '.join(changed)}); name another folder")


def _run_epoch(
    model: keras.Model, train_step: Any, sampler: CropSampler, recipe: Recipe, epoch: int, bar: Progress
) -> float:
    n_steps = recipe.n_steps
    losses = []
    for step, batch in enumerate(_ahead(sampler, epoch, n_steps)):
        progress = (epoch + step / n_steps) / recipe.epochs
        warm_up = min(1.0, progress * recipe.epochs / 2)
        model.optimizer.learning_rate = recipe.learning_rate * warm_up * 0.5 * (1 + np.cos(np.pi * progress))
        losses.append(float(train_step(*(tf.constant(x) for x in batch))))
        bar.advance()
    return float(np.mean(losses))


def _ahead(sampler: CropSampler, epoch: int, n_steps: int) -> Iterator[Batch]:
    """Yield the batches of an epoch, the next one being made while the last is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(sampler.batch, epoch, 0)
        for step in range(n_steps):
            batch = pending.result()
            if step + 1 < n_steps:
                pending = pool.submit(sampler.batch, epoch, step + 1)
            yield batch


def _compile_step(model: keras.Model, recipe: Recipe, emotions: tuple[str, ...]) -> Any:
    """Return the function that takes the arrays of a batch, trains a step and returns the loss."""
    optimizer = model.optimizer
    groups = [[emotions.index(e) for e in group_of(label) if e in emotions] for label in LABELS]
    groups.append([k for k in range(len(emotions)) if not any(k in group for group in groups)])
    groups = [group for group in groups if group]

    def entropy(target: Any, logits: Any) -> Any:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))

    @tf.function  # type: ignore[untyped-decorator]
    def step(frames: Any, weights: Any, emotion: Any, allowed: Any, voice: Any, speech: Any, gate: Any) -> Any:
        with tf.GradientTape() as tape:
            out = model([frames, weights], training=True)
            masked = out["emotion"] - 1e9 * (1.0 - allowed)
            loss = entropy(emotion * allowed, masked)
            # over all outputs: one that a corpus is not labelled with would else take what it likes of its clips
            labels = [tf.reduce_logsumexp(tf.gather(out["emotion"], g, axis=1), axis=1) for g in groups]
            targets = [tf.reduce_sum(tf.gather(emotion, g, axis=1), axis=1) for g in groups]
            loss += recipe.label_weight * entropy(tf.stack(targets, axis=1), tf.stack(labels, axis=1))
            loss += recipe.voice_weight * entropy(voice, out["voice"])
            loss += recipe.speech_weight * entropy(speech, out["speech"])
            loss += recipe.gate_weight * entropy(gate, tf.concat([out["gate"], tf.zeros_like(out["gate"])], axis=-1))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step


def uar(model: keras.Model, batch: Batch) -> float:
    """Return the unweighted average recall of whole clips over the emotions that their corpora have."""
    logits = np.concatenate(
        [
            model([batch.frames[i : i + 256], batch.weights[i : i + 256]])["emotion"].numpy()
            for i in range(0, len(batch.weights), 256)
        ]
    )
    predicted = np.argmax(logits - 1e9 * (1 - batch.allowed), axis=1)
    actual = np.argmax(batch.emotion, axis=1)
    return float(np.mean([np.mean(predicted[actual == k] == k) for k in np.unique(actual)]))


def _save(model: keras.Model, run: Path, entry: dict[str, Any]) -> None:
    """Write the checkpoint whole or not at all, then the line of the log that says so, and TensorBoard's."""
    partial = run / "partial.keras"
    model.save(partial)
    os.replace(partial, run / "checkpoint.keras")
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")
    with contextlib.closing(tf.summary.create_file_writer(str(run / "tensorboard"))) as writer, writer.as_default():
        for name in entry.keys() - {"epoch"}:
            tf.summary.scalar(name, entry[name], step=entry["epoch"])


def _restore(run: Path, recipe: Recipe, n_mfcc: int, n_emotions: int) -> tuple[keras.Model, int]:
    """Return the network and the next epoch: of the checkpoint where there is one, else from the start."""
    if (run / "checkpoint.keras").is_file():
        model = keras.saving.load_model(run / "checkpoint.keras")
        # counted by the checkpoint itself: the process may have died before it wrote the line of the log
        n_steps = int(model.optimizer.iterations)
        for state in (v for v in model.variables if v.path.endswith("seed_generator_state")):
            # Keras does not save how many numbers dropout has drawn: one a step
            state.assign([state[0], n_steps])
        return model, n_steps // recipe.n_steps
    model = build(recipe, n_mfcc, n_emotions)
    model.compile(keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay))
    model.optimizer.build(model.trainable_variables)
    return model, 0
