"""What int8 costs: the float network of a run and the model made from it, on the same clips by the same rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serstream.analysis import analyze, open_pipeline
from serstream.batch import alone
from serstream.config import Config, SpeechConfig
from serstream.ear import Ear, Outputs
from serstream.errors import ModelError
from serstream.events import LABELS
from serstream.features import mfcc
from serstream.manifest import Manifest, Model, load_model
from serstream.network import StateLayout
from serstream.normalisation import CepstralMean
from serstream.pooling import POOLING_EPSILON, pooling_weights
from serstream.posteriors import PosteriorMean, softmax
from serstream.training.corpora import Clip
from serstream.training.evaluate import clips_to_score
from serstream.training.export import load_run
from serstream.training.network import build_stream, set_stream_weights
from serstream.training.prepare import read_clip
from serstream.training.recipe import Recipe
from serstream.training.score import answers, label_of, recalls

Vectors = NDArray[np.float64]


class FloatNetwork:
    """Trunk and head of a run, unquantised, by the rules of a manifest; to be heard with as :class:`Network` is."""

    def __init__(self, stream: keras.Model, head: keras.Model, manifest: Manifest) -> None:
        self.manifest = manifest
        self._head = head
        self._stream = tf.function(lambda tensors: stream(tensors, training=False))
        shapes = {name: t.shape for name, t in stream.input.items() if name != "frames"}
        zeros = np.zeros((1, manifest.step_frames, manifest.front_end.n_mfcc), np.float32)
        self._layout = StateLayout({name: (1, *shape[1:]) for name, shape in shapes.items()})
        self.at_rest = np.zeros((1, self._layout.size), np.float32)
        for _ in range(-(-manifest.context_frames // manifest.step_frames)):
            *_, self.at_rest = self.trunk(zeros, self.at_rest)

    def trunk(
        self, frames: NDArray[np.float32], state: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Run the trunk on a step, as :meth:`Network.trunk` does."""
        asked = self._layout.parted(state) | {"frames": frames[:, None]}
        out = {name: x.numpy() for name, x in self._stream(asked).items()}
        return out["activations"][:, 0], out["gate"][:, 0, :, 0], self._layout.joined(out)

    def hear(self, samples: NDArray[np.float32], mean: CepstralMean) -> list[float] | None:
        """Return the speech-weighted mean over a clip, (n_emotions), as the pipeline makes it; None without speech.

        ``mean`` is what the clip is normalised by, and is moved on.
        """
        m, posterior = self.manifest, PosteriorMean()
        frames = mfcc(samples, m.front_end)
        ear = Ear(self, mean, threshold=SpeechConfig().threshold)  # type: ignore[arg-type]
        steps = [frames[at : at + m.step_frames] for at in range(0, len(frames), m.step_frames)]
        heard = [alone(self, ear.step(step)) for step in steps if len(step) >= m.stride]  # type: ignore[arg-type]
        pooled, n_spoken = self._segments(heard) if heard else ([], [])
        logits = self._head(np.array(pooled))["emotion"] if pooled else ()
        for row, n in zip(np.asarray(logits, np.float64), n_spoken, strict=True):
            posterior.add(softmax(row / m.temperature), n)
        return posterior.result()

    def _segments(self, heard: Sequence[Outputs]) -> tuple[list[Vectors], list[int]]:
        """Return the pooled statistics of every step that has scores, and the number of outputs that they are of."""
        m = self.manifest
        values = np.concatenate([h.values for h in heard]).astype(np.float64)
        n_evidence, n_segment = m.evidence_frames // m.stride, m.segment_frames // m.stride
        speech = np.concatenate([np.zeros(n_evidence, bool), *(h.speech for h in heard)])
        weights = pooling_weights(speech, n_evidence)
        pooled, n_spoken, end = [], [], 0
        for h in heard:
            end += len(h.speech)
            segment = slice(max(0, end - n_segment), end)
            x, w = values[segment], weights[segment]
            if np.count_nonzero(w) * m.stride >= m.min_segment_frames:
                mean = np.average(x, axis=0, weights=w)
                variance = np.average(np.square(x - mean), axis=0, weights=w)
                pooled.append(np.concatenate([mean, np.sqrt(variance + POOLING_EPSILON)]))
                n_spoken.append(int(np.count_nonzero(w)))
        return pooled, n_spoken


def float_network(run: Path, manifest: Manifest) -> FloatNetwork:
    """Return the network of a run; raises :class:`ModelError` if the manifest is not of a model made from it."""
    model, recipe = load_run(run)
    scale = np.load(run / "normalisation.npz")
    if _geometry(recipe) != _manifest_geometry(manifest) or not np.allclose(scale["mean"], manifest.mean, atol=1e-4):
        raise ModelError(f"model {manifest.name} was not exported from {run}; name the run that it was made from")
    stream = build_stream(recipe.shape, recipe.step_frames, len(manifest.mean))
    set_stream_weights(stream, model.get_layer("trunk"))
    return FloatNetwork(stream, model.get_layer("head"), manifest)


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
