"""What int8 costs: the float network of a run and the model made from it, on the same clips by the same rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from serstream.analysis import analyze, open_pipeline
from serstream.classifier import softmax
from serstream.config import Config
from serstream.decision import PosteriorMean
from serstream.errors import ModelError
from serstream.events import LABELS
from serstream.frontend import hear
from serstream.manifest import Manifest, Model, load_model
from serstream.normalisation import CepstralMean
from serstream.pooling import POOLING_EPSILON, pooling_weights
from serstream.training.corpora import Clip
from serstream.training.evaluate import clips_to_score
from serstream.training.export import load_run
from serstream.training.network import build_trunk
from serstream.training.prepare import SPEECH_PROBABILITY, read_clip
from serstream.training.recipe import Recipe
from serstream.training.score import answers, label_of, recalls

Vectors = NDArray[np.float64]


class FloatNetwork(NamedTuple):
    """Trunk and head of a run, unquantised, with the manifest whose rules they are run by."""

    trunk: keras.Model
    head: keras.Model
    manifest: Manifest

    def hear(self, samples: NDArray[np.float32], mean: CepstralMean) -> Vectors | None:
        """Return the speech-weighted mean over a clip, (n_emotions,), as the pipeline makes it; None without speech.

        ``mean`` is what the clip is normalised by, and is moved on.
        """
        m = self.manifest
        frames, heard = hear(samples, m.front_end)
        speech = heard >= SPEECH_PROBABILITY
        posterior = PosteriorMean()
        if len(frames) >= m.stride:
            pooled, shares = self._segments(self._activations(mean.normalise(frames, speech)), speech)
            logits = self.head(np.reshape(pooled, (len(pooled), -1)))["emotion"] if pooled else ()
            for row, share in zip(np.asarray(logits, np.float64), shares, strict=True):
                posterior.add(softmax(row / m.temperature), share)
        return posterior.result()

    def _activations(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the trunk over a whole normalised stream, before which there was the zero vector."""
        context = np.zeros((self.manifest.context_frames, x.shape[1]), np.float32)
        return np.asarray(self.trunk(np.concatenate([context, x])[None])[0], np.float32)

    def _segments(
        self, activations: NDArray[np.float32], speech: NDArray[np.bool_]
    ) -> tuple[list[Vectors], list[float]]:
        """Return the pooled statistics of every step that has scores, and the share of speech in its frames."""
        m = self.manifest
        n_outputs = len(speech) // m.stride
        weights = pooling_weights(np.pad(speech, (m.evidence_frames, 0)), m.stride, m.evidence_frames)
        pooled, shares = [], []
        for first in range(0, n_outputs * m.stride, m.step_frames):
            end = min(first + m.step_frames, n_outputs * m.stride) // m.stride
            segment = slice(max(0, end - m.segment_frames // m.stride), end)
            x, w = activations[segment].astype(np.float64), weights[segment]
            if np.count_nonzero(w) * m.stride >= m.min_segment_frames:
                mean = np.average(x, axis=0, weights=w)
                variance = np.average(np.square(x - mean), axis=0, weights=w)
                pooled.append(np.concatenate([mean, np.sqrt(variance + POOLING_EPSILON)]))
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
    return context, recipe.segment_frames, recipe.evidence_frames, recipe.step_frames, recipe.min_segment_frames


def _manifest_geometry(m: Manifest) -> tuple[int, ...]:
    return m.context_frames, m.segment_frames, m.evidence_frames, m.step_frames, m.min_segment_frames


class Comparison(NamedTuple):
    """A float network and an int8 model on the same clips, by posteriors of the five labels that were not rounded.

    ``label`` (n,) was asked of the speaker; ``exact`` and ``quantised`` (n, 5) were heard by the float network and the
    int8 model, a row of NaN where there was no speech; ``equal_decisions`` is for how many clips both say the same
    label, or nothing; the differences, from 0 to 1, are those of clips in which both heard speech.
    """

    label: NDArray[np.int64]
    exact: Vectors
    quantised: Vectors
    equal_decisions: int
    largest_difference: float
    mean_difference: float


def compare(network: FloatNetwork, model: Model, clips: Sequence[Clip], *, frozen: bool) -> Comparison:
    """Let both hear each clip by itself, as ``analyze`` does, or with the mean that never moves."""
    collapse, new_mean = open_pipeline(model, Config()).collapse, model.manifest.cepstral_mean
    exact, quantised = np.full((2, len(clips), len(LABELS)), np.nan)
    for i, clip in enumerate(clips):
        samples = read_clip(clip.path)
        heard = network.hear(samples, new_mean(frozen=frozen))
        if heard is not None:
            exact[i] = collapse(heard)[0]
        posterior = analyze([samples], model, Config(), new_mean(frozen=frozen)).posterior
        if posterior is not None:
            quantised[i] = posterior
    difference = np.abs(exact - quantised)
    difference = difference[~np.isnan(difference)]
    return Comparison(
        label=np.array([label_of(c) for c in clips], np.int64),
        exact=exact,
        quantised=quantised,
        equal_decisions=int(np.sum(answers(exact) == answers(quantised))),
        largest_difference=float(difference.max(initial=0.0)),
        mean_difference=float(difference.mean()) if difference.size else 0.0,
    )


def parity(run: Path, folder: Path, data: Path, *, corpus: str, fold: int | None, as_json: bool) -> None:
    """Print how the float network of a run and the int8 model compare on a corpus, or on the speakers of one fold."""
    clips, model = clips_to_score(data, corpus=corpus, fold=fold), load_model(folder)
    found = compare(float_network(run, model.manifest), model, clips, frozen=False)
    figures = {
        "uar_float": float(np.mean(recalls(found.label, found.exact))),
        "uar_int8": float(np.mean(recalls(found.label, found.quantised))),
        "equal_decisions": found.equal_decisions / len(clips),
        "largest_difference": found.largest_difference,
        "mean_difference": found.mean_difference,
    }
    if as_json:
        print(json.dumps({"clips": len(clips)} | {name: round(value, 4) for name, value in figures.items()}))
        return
    print(f"{run} (float) and {folder} (int8) on {len(clips)} clips of {corpus}")
    for name, value in figures.items():
        print(f"{name:>20} {value:.4f}")
