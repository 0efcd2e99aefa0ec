"""What int8 costs: the float network of a run and the model made from it, on the same clips by the same rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from serstream.classifier import POOLING_EPSILON, Manifest, load_model, softmax
from serstream.decision import PosteriorMean
from serstream.errors import ModelError
from serstream.features import mfcc
from serstream.pipeline import Pipeline
from serstream.training.corpora import Clip
from serstream.training.evaluate import clips_to_score
from serstream.training.export import load_run
from serstream.training.network import build_trunk
from serstream.training.prepare import read_clip, speech_frames
from serstream.training.recipe import Recipe
from serstream.training.score import hear, recalls

Vectors = NDArray[np.float64]


class FloatNetwork(NamedTuple):
    """Trunk and head of a run, unquantised, with the manifest whose rules they are run by."""

    trunk: keras.Model
    head: keras.Model
    manifest: Manifest

    def hear(self, clip: Clip) -> Vectors:
        """Return the speech-weighted mean over a clip, (n_emotions,), as the pipeline makes it; NaN without speech."""
        m = self.manifest
        samples = read_clip(clip.path)
        frames = mfcc(samples, m.front_end)
        speech = speech_frames(samples, len(frames))
        mean = PosteriorMean()
        if len(frames) >= m.stride:
            pooled, shares = self._segments(self._activations(frames, speech), speech)
            logits = self.head(np.reshape(pooled, (len(pooled), -1)))["emotion"] if pooled else ()
            for row, share in zip(np.asarray(logits, np.float64), shares, strict=True):
                mean.add(softmax(row / m.temperature), share)
        result = mean.result()
        return np.full(len(m.emotions), np.nan) if result is None else result

    def _activations(self, frames: NDArray[np.float32], speech: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the trunk over the whole stream, before which there was the normalised zero vector."""
        m = self.manifest
        x = m.cepstral_mean().normalise(frames, speech)
        context = np.zeros((m.context_frames, x.shape[1]), np.float32)
        return np.asarray(self.trunk(np.concatenate([context, x])[None])[0], np.float32)

    def _segments(
        self, activations: NDArray[np.float32], speech: NDArray[np.bool_]
    ) -> tuple[list[Vectors], list[float]]:
        """Return the pooled statistics of every step that has scores, and the share of speech in its frames."""
        m = self.manifest
        n_outputs = len(speech) // m.stride
        is_speech = speech[: n_outputs * m.stride].reshape(n_outputs, m.stride).sum(axis=1) * 2 >= m.stride
        pooled, shares = [], []
        for first in range(0, n_outputs * m.stride, m.step_frames):
            end = min(first + m.step_frames, n_outputs * m.stride) // m.stride
            segment = slice(max(0, end - m.segment_frames // m.stride), end)
            x = activations[segment][is_speech[segment]].astype(np.float64)
            if len(x) * m.stride >= m.min_segment_frames:
                pooled.append(np.concatenate([x.mean(axis=0), np.sqrt(x.var(axis=0) + POOLING_EPSILON)]))
                shares.append(float(speech[first : first + m.step_frames].mean()))
        return pooled, shares


def float_network(run: Path, manifest: Manifest) -> FloatNetwork:
    """Return the network of a run; raises :class:`ModelError` if the manifest is not of a model made from it."""
    model, recipe = load_run(run)
    scale = np.load(run / "normalisation.npz")
    if _geometry(recipe) != _manifest_geometry(manifest) or not np.allclose(scale["mean"], manifest.mean, atol=1e-4):
        raise ModelError(f"model {manifest.name} was not exported from {run}; name the run that it was made from")
    trunk = build_trunk(recipe.shape, None, len(manifest.mean))
    trunk.set_weights(model.get_layer("trunk").get_weights())
    return FloatNetwork(trunk, model.get_layer("head"), manifest)


def _geometry(recipe: Recipe) -> tuple[int, ...]:
    context = recipe.shape.receptive_field_frames - recipe.shape.stride
    return context, recipe.segment_frames, recipe.step_frames, recipe.min_segment_frames


def _manifest_geometry(m: Manifest) -> tuple[int, ...]:
    return m.context_frames, m.segment_frames, m.step_frames, m.min_segment_frames


def compare(run: Path, folder: Path, clips: list[Clip]) -> dict[str, Any]:
    """Return the recall of both over clips of the five classes, and how far apart they are.

    ``equal_decisions`` is the share of clips for which both say the same label, or nothing; differences are between the
    posteriors of the five labels of a clip, both without rounding.
    """
    model = load_model(folder)
    network = float_network(run, model.manifest)
    collapse = Pipeline(model, source="file", session="").collapse
    scored = hear(folder, clips)
    exact, quantised = (
        np.array([collapse(row)[0] for row in rows]) for rows in ([network.hear(c) for c in clips], scored.emotion)
    )
    silent = [np.isnan(x).any(axis=1) for x in (exact, quantised)]
    decisions = [np.where(none, -1, x.argmax(axis=1)) for none, x in zip(silent, (exact, quantised), strict=True)]
    difference = np.abs(exact - quantised)[~silent[0] & ~silent[1]]
    return {
        "clips": len(clips),
        "uar_float": round(float(np.mean(recalls(scored.label, exact))), 4),
        "uar_int8": round(float(np.mean(recalls(scored.label, quantised))), 4),
        "equal_decisions": round(float(np.mean(decisions[0] == decisions[1])), 4),
        "largest_difference": round(float(difference.max(initial=0.0)), 4),
        "mean_difference": round(float(difference.mean()), 4) if difference.size else 0.0,
    }


def parity(run: Path, folder: Path, data: Path, *, corpus: str, fold: int | None, as_json: bool) -> None:
    """Print how the float network of a run and the int8 model compare on a corpus, or on the speakers of one fold."""
    figures = compare(run, folder, clips_to_score(data, corpus=corpus, fold=fold))
    if as_json:
        print(json.dumps(figures))
        return
    print(f"{run} (float) and {folder} (int8) on {figures['clips']} clips of {corpus}")
    for name, value in figures.items():
        if name != "clips":
            print(f"{name:>20} {value:.4f}")
