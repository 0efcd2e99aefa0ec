"""The same network from scratch, for tests that hold the stream against it; and frames to feed both."""

from __future__ import annotations

import math

import numpy as np

from serstream.batch import alone
from serstream.classifier import Classifier, Scores, softmax
from serstream.manifest import Model
from serstream.network import interpreter
from serstream.normalisation import UNITS


def random_frames(model: Model, n_frames: int, seed: int = 0) -> np.ndarray:
    """Cepstra as they might be, slowly changing like speech."""
    m, rng = model.manifest, np.random.default_rng(seed)
    steps = rng.normal(size=(n_frames, len(m.mean))) * 0.5
    walk = np.array([sum(steps[max(0, i - 8) : i + 1]) for i in range(n_frames)])
    return (walk * m.std + m.mean).astype(np.float32)


def random_speech(n_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n_frames) < 0.7


def one_step(classifier: Classifier, frames: np.ndarray, speech: np.ndarray) -> Scores | None:
    return alone(classifier.network, classifier.step(frames, speech))


def run(classifier: Classifier, frames: np.ndarray, speech: np.ndarray) -> list[Scores | None]:
    step = classifier.manifest.step_frames
    starts = range(0, len(frames), step)
    return [one_step(classifier, frames[s : s + step], speech[s : s + step]) for s in starts]


def as_bytes(scores: list[Scores | None]) -> list[bytes | None]:
    return [None if s is None else s.emotion.tobytes() + s.voice.tobytes() for s in scores]


class Recomputed:
    """The same network from scratch: the trunk over segment and context anew, and pooling in float64."""

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
        """Return every frame less the mean before it, which is added up anew for each."""
        m = self.m
        units = np.rint(frames.astype(np.float64) * UNITS).astype(np.int64)
        heard = [units[:f][speech[:f]] for f in range(len(frames))]
        prior = np.array(m.mean) * m.prior_frames
        means = [(prior + h.sum(axis=0) / UNITS) / (m.prior_frames + len(h)) for h in heard]
        return ((frames - np.array(means)) / np.array(m.std, np.float32)).astype(np.float32)

    def activations(self, normalised: np.ndarray, first: int) -> np.ndarray:
        """Return the int8 outputs for frames from ``first``: one run over them and what the trunk sees before them."""
        m = self.m
        lead = math.ceil(m.context_frames / m.stride) * m.stride
        x = np.concatenate([np.zeros((lead, normalised.shape[1]), np.float32), normalised])[first:]
        outputs = self.trunk(frames=self.quantise("frames", x)[None, None], **self.any_state)["activations"]
        return outputs[0, 0, lead // m.stride :]

    def scores(self, frames: np.ndarray, speech: np.ndarray) -> Scores | None:
        """Return the scores of the segment that ends with the last frame; whole groups of ``stride`` frames alone."""
        first = max(0, len(frames) - self.m.segment_frames)
        return self.pooled(self.activations(self.normalised(frames, speech), first), speech, first)

    def all_scores(self, frames: np.ndarray, speech: np.ndarray) -> list[Scores | None]:
        """Return the scores of every step of a stream, from one run of the trunk over the whole of it."""
        m, n = self.m, len(frames) // self.m.stride * self.m.stride
        outputs = self.activations(m.cepstral_mean().normalise(frames, speech)[:n], 0)
        ends = [min(s + m.step_frames, n) for s in range(0, len(frames), m.step_frames)]
        return [
            self.pooled(outputs[first // m.stride : end // m.stride], speech[:end], first)
            for end in ends
            for first in [max(0, end - m.segment_frames)]
        ]

    def pooled(self, outputs: np.ndarray, speech: np.ndarray, first: int) -> Scores | None:
        """Return the scores of the outputs of a segment, which begins with the frame ``first``."""
        m = self.m
        is_speech = speech[first:].reshape(-1, m.stride).mean(axis=1) >= 0.5
        if is_speech.sum() * m.stride < m.min_segment_frames:
            return None
        ends = np.arange(first, len(speech), m.stride)[is_speech] + m.stride
        weights = [int(speech[max(0, end - m.evidence_frames) : end].sum()) for end in ends]
        x = self.real("activations", outputs[is_speech])
        mean = np.average(x, axis=0, weights=weights)
        pooled = np.concatenate([mean, np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights) + 1e-5)])
        out = self.head(pooled=self.quantise("pooled", pooled)[None])
        emotion, voice, speech = (self.real(name, out[name][0]) for name in ("emotion", "voice", "speech"))
        return Scores(softmax(emotion / m.temperature), softmax(voice / m.voice_temperature), float(softmax(speech)[0]))
