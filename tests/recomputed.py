"""The same network from scratch, for tests that hold the stream against it; and what feeds both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from serstream.batch import alone
from serstream.classifier import Classifier, Scores
from serstream.ear import Ear, Outputs, log_odds
from serstream.manifest import Manifest, Model
from serstream.network import Network, interpreter
from serstream.normalisation import UNITS, CepstralMean
from serstream.posteriors import softmax


def random_frames(model: Model, n_frames: int, seed: int = 0) -> np.ndarray:
    """Cepstra as they might be, slowly changing like speech."""
    m, rng = model.manifest, np.random.default_rng(seed)
    steps = rng.normal(size=(n_frames, len(m.mean))) * 0.5
    walk = np.array([sum(steps[max(0, i - 8) : i + 1]) for i in range(n_frames)])
    return (walk * m.std + m.mean).astype(np.float32)


def random_speech(n_outputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n_outputs) < 0.7


def cut(m: Manifest, frames: np.ndarray) -> list[np.ndarray]:
    """Return the steps of a stream; the last may be short."""
    return [frames[at : at + m.step_frames] for at in range(0, len(frames), m.step_frames)]


def stepwise(m: Manifest, frames: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """Return the frames of a stream as the runtime's own mean normalises them, with these outputs (n,) for speech."""
    mean, parts = m.cepstral_mean(), []
    for step in cut(m, frames):
        parts.append(mean.normalise(step))
        spoken, speech = np.split(speech, [len(step) // m.stride])
        mean.move(step, np.repeat(spoken, m.stride))
    return np.concatenate(parts)


def listen(
    network: Network, frames: np.ndarray, mean: CepstralMean | None = None, *, threshold: float = 0.5
) -> list[Outputs]:
    """Return what an ear hears of every step of a stream."""
    ear = Ear(network, mean, threshold=threshold)
    return [alone(network, ear.step(step)) for step in cut(network.manifest, frames)]


def dictated(network: Network, frames: np.ndarray, speech: np.ndarray) -> list[Outputs]:
    """Return what an ear whose mean never moves hears, but with these outputs (n,) as the speech among them."""
    heard = listen(network, frames, network.manifest.cepstral_mean(frozen=True))
    ends = np.cumsum([len(h.speech) for h in heard])
    return [h._replace(speech=part) for h, part in zip(heard, np.split(speech, ends[:-1]), strict=True)]


def score(network: Network, heard: Sequence[Outputs], classifier: Classifier | None = None) -> list[Scores | None]:
    """Return what a classifier, a new one or the one given, makes of every step."""
    classifier = classifier or Classifier(network)
    return [alone(network, classifier.step(h)) for h in heard]


def speech_in(heard: Sequence[Outputs]) -> np.ndarray:
    return np.concatenate([h.speech for h in heard])


def as_bytes(scores: list[Scores | None]) -> list[bytes | None]:
    return [None if s is None else np.array(s.emotion + s.voice).tobytes() for s in scores]


class Recomputed:
    """The same network from scratch: the trunk over segment and context anew, and pooling in float64.

    ``speech`` is that of the outputs (n,) of a stream, each of ``stride`` frames.
    """

    def __init__(self, model: Model) -> None:
        self.m = model.manifest
        network = interpreter(model.content)
        self.trunk, self.head = (network.get_signature_runner(name) for name in ("trunk", "head"))
        details = self.trunk.get_input_details() | self.trunk.get_output_details()
        details |= self.head.get_input_details() | self.head.get_output_details()
        inputs = self.trunk.get_input_details()
        self.any_state = {name: np.zeros(d["shape"], np.int8) for name, d in inputs.items() if name != "frames"}
        self.scale = {name: d["quantization"] for name, d in details.items()}

    def quantise(self, name: str, x: np.ndarray) -> np.ndarray:
        scale, zero = self.scale[name]
        return np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)

    def real(self, name: str, q: np.ndarray) -> np.ndarray:
        scale, zero = self.scale[name]
        return (q.astype(np.float64) - zero) * scale

    def normalised(self, frames: np.ndarray, speech: np.ndarray) -> np.ndarray:
        """Return the frames of every step less the mean of the speech before the step, added up anew for each."""
        m = self.m
        units, spoken = np.rint(frames.astype(np.float64) * UNITS).astype(np.int64), np.repeat(speech, m.stride)
        prior, means = np.array(m.mean) * m.prior_frames, []
        for f in range(len(frames)):
            before = f // m.step_frames * m.step_frames
            heard = units[:before][spoken[:before]]
            means.append((prior + heard.sum(axis=0) / UNITS) / (m.prior_frames + len(heard)))
        return (frames - np.array(means, np.float32)) / np.array(m.std, np.float32)

    def outputs(self, normalised: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Return activations and gate, int8, of the frames from ``first``: one run over them and what lies before."""
        m = self.m
        lead = math.ceil(m.context_frames / m.stride) * m.stride
        x = np.concatenate([np.zeros((lead, normalised.shape[1]), np.float32), normalised])[first:]
        out = self.trunk(frames=self.quantise("frames", x)[None, None], **self.any_state)
        behind = lead // m.stride
        return out["activations"][0, 0, behind:], out["gate"][0, 0, behind:, 0]

    def speech(self, normalised: np.ndarray, threshold: float) -> np.ndarray:
        """Return which outputs of a whole stream the gate lets through."""
        return self.real("gate", self.outputs(normalised, 0)[1]) >= log_odds(threshold)

    def threshold(self, frames: np.ndarray) -> float:
        """Return a threshold that half of the outputs reach while the mean does not move."""
        at_rest = self.normalised(frames, np.zeros(len(frames) // self.m.stride, bool))
        odds = np.exp(np.median(self.real("gate", self.outputs(at_rest, 0)[1])))
        return float(odds / (1.0 + odds))

    def scores(self, frames: np.ndarray, speech: np.ndarray) -> Scores | None:
        """Return the scores of the segment that ends with the last frame; whole groups of ``stride`` frames alone."""
        first = max(0, len(frames) - self.m.segment_frames)
        return self.pooled(self.outputs(self.normalised(frames, speech), first)[0], speech, first)

    def all_scores(self, frames: np.ndarray, speech: np.ndarray, threshold: float) -> list[Scores | None]:
        """Return the scores of every step of a stream, from one run of the trunk over the whole of it."""
        m, normalised = self.m, stepwise(self.m, frames, speech)
        assert np.array_equal(self.speech(normalised, threshold), speech), "the gate says the same of the whole"
        outputs, _ = self.outputs(normalised, 0)
        ends = [min(at + m.step_frames, len(frames)) for at in range(0, len(frames), m.step_frames)]
        return [
            self.pooled(outputs[first // m.stride : end // m.stride], speech[: end // m.stride], first)
            for end in ends
            for first in [max(0, end - m.segment_frames)]
        ]

    def pooled(self, outputs: np.ndarray, speech: np.ndarray, first: int) -> Scores | None:
        """Return the scores of the outputs of a segment, which begins with the frame ``first``."""
        m = self.m
        is_speech, n_evidence = speech[first // m.stride :], m.evidence_frames // m.stride
        if is_speech.sum() * m.stride < m.min_segment_frames:
            return None
        ends = np.flatnonzero(is_speech) + first // m.stride + 1
        weights = [int(speech[max(0, end - n_evidence) : end].sum()) for end in ends]
        x = self.real("activations", outputs[is_speech])
        mean = np.average(x, axis=0, weights=weights)
        pooled = np.concatenate([mean, np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights) + 1e-5)])
        out = self.head(pooled=self.quantise("pooled", pooled)[None])
        emotion, voice, is_voice = (self.real(name, out[name][0]).tolist() for name in ("emotion", "voice", "speech"))
        probabilities = softmax(emotion, m.temperature), softmax(voice, m.voice_temperature)
        return Scores(*probabilities, softmax(is_voice)[0], int(is_speech.sum()))
