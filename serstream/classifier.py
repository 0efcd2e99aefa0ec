"""The model: a manifest and an int8 network, run a step at a time.

The trunk's temporal convolutions are valid, so its outputs depend on the frames that they see and on nothing else.
Pooling between trunk and head is integer arithmetic over the segment's speech, so streaming equals recomputing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE, Weight
from serstream.errors import ModelError
from serstream.events import LABELS
from serstream.features import FrontEnd
from serstream.normalisation import CepstralMean

MODEL_SCHEMA: Literal["serstream-model/3"] = "serstream-model/3"
POOLING_EPSILON = 1e-5
"""Added to the variance under the square root, in squared units of the trunk's outputs, as in training."""

Frames = Annotated[int, Meta(ge=1, le=10_000)]
HistoryFrames = Annotated[int, Meta(ge=2, le=1_000_000, multiple_of=2)]
FrameWeight = Annotated[float, Meta(gt=0.0, le=1_000_000.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Manifest(msgspec.Struct, frozen=True):
    """What a model was made of and for; ``manifest.json`` beside ``model.tflite``.

    ``emotions`` are the network's outputs; ``groups`` says which of them make each published label, the rest is
    ``other``. Segment, step and least segment are in frames; ``context_frames`` is what the trunk sees before a step,
    ``evidence_frames`` as in :func:`pooling_weights`.
    ``mean`` and ``std`` normalise each cepstral coefficient, and ``ordinary`` is the mean of ordinary voices alone, see
    :meth:`cepstral_mean`.
    """

    name: str
    sha256: str
    emotions: list[str]
    groups: dict[str, list[str]]
    front_end: FrontEnd
    segment_frames: Frames
    step_frames: Frames
    min_segment_frames: Frames
    evidence_frames: Frames
    context_frames: Frames
    stride: Frames
    mean: list[float]
    std: list[float]
    ordinary: list[float]
    prior_frames: FrameWeight
    profile_frames: FrameWeight
    history_frames: HistoryFrames
    temperature: Annotated[float, Meta(gt=0.0)]
    voice_temperature: Annotated[float, Meta(gt=0.0)]
    speech_threshold: Probability
    enter_threshold: Probability
    exit_threshold: Probability
    priors: dict[str, Weight]
    corpora: list[str]
    licence: str
    scores: dict[str, Any]
    command: str
    schema: Literal["serstream-model/3"] = MODEL_SCHEMA

    def __post_init__(self) -> None:
        if not all(s % self.stride == 0 for s in (self.segment_frames, self.step_frames)):
            raise ValueError(f"segment_frames and step_frames must be multiples of stride {self.stride}")
        if self.min_segment_frames > self.segment_frames:
            raise ValueError(
                f"min_segment_frames is {self.min_segment_frames}; "
                f"it must be at most segment_frames {self.segment_frames}"
            )
        if self.exit_threshold > self.enter_threshold:
            raise ValueError(
                f"exit_threshold is {self.exit_threshold}; it must be at most enter_threshold {self.enter_threshold}"
            )
        if unknown := sorted(set(self.priors) - set(LABELS)):
            raise ValueError(f"priors names {', '.join(unknown)}; allowed are {', '.join(LABELS)}")
        if self.front_end.sample_rate != SAMPLE_RATE:
            raise ValueError(f"sample_rate is {self.front_end.sample_rate}; it must be {SAMPLE_RATE}")
        self._check_vectors()

    def _check_vectors(self) -> None:
        if any(len(v) != self.front_end.n_mfcc for v in (self.mean, self.std, self.ordinary)):
            raise ValueError(f"mean, std and ordinary must each hold n_mfcc {self.front_end.n_mfcc} numbers")
        if min(self.std) <= 0.0:
            raise ValueError(f"std holds {min(self.std)}; every number must be above 0")
        grouped = [emotion for group in self.groups.values() for emotion in group]
        if tuple(self.groups) != LABELS or sorted(grouped) != sorted(set(grouped) & set(self.emotions)):
            raise ValueError(f"groups must make the labels {', '.join(LABELS)} of the emotions")

    def cepstral_mean(self, profile: Sequence[float] | None = None, *, frozen: bool = False) -> CepstralMean:
        """Return what a stream begins with: ``mean`` with the weight ``prior_frames``.

        A ``profile`` (n_mfcc,), the mean of a person's ordinary voice, takes its place with ``profile_frames``, moved
        from ordinary speech to that of all moods, as far as voices move on average. ``frozen`` as in
        :class:`CepstralMean`.
        """
        prior, weight = np.array(self.mean), self.prior_frames
        if profile is not None:
            prior, weight = prior + profile - self.ordinary, self.profile_frames
        return CepstralMean(prior, self.std, prior_frames=weight, history_frames=self.history_frames, frozen=frozen)


class Scores(NamedTuple):
    """Probabilities of one segment: ``emotion`` (n_emotions,) and ``voice`` (2,) each sum to 1, ``speech`` is 0 to 1.

    ``speech`` says how likely what the gate let through is speech at all, and not music, an animal or a machine.
    """

    emotion: NDArray[np.float64]
    voice: NDArray[np.float64]
    speech: float


class Model(NamedTuple):
    """A checked model: its manifest, and the network as bytes that any number of classifiers share."""

    manifest: Manifest
    content: bytes
    folder: Path


def load_model(folder: Path) -> Model:
    """Read and check ``model.tflite`` and ``manifest.json``.

    Raises
    ------
    ModelError
        If either is missing, damaged, or not made for the other.
    """
    try:
        text = (folder / "manifest.json").read_bytes()
        content = (folder / "model.tflite").read_bytes()
    except OSError as error:
        raise ModelError(
            f"model {folder} has no readable {Path(error.filename).name} ({error.strerror}); "
            "name a shipped model or a folder with manifest.json and model.tflite"
        ) from error
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{folder / 'manifest.json'} is not a manifest of {MODEL_SCHEMA}: {error}; export the model again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise ModelError(
            f"{folder / 'model.tflite'} has sha256 {digest[:12]}..., but its manifest names {manifest.sha256[:12]}...; "
            "one of them is damaged or of another model: install or export the model again"
        )
    return Model(manifest, content, folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` so that a person can read it."""
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def interpreter(content: bytes, runtime: str = "litert") -> Any:
    """Return an interpreter of LiteRT, or of its predecessor tflite-runtime, on one thread.

    Raises
    ------
    ModelError
        If the runtime is not installed, does not fit this NumPy, or refuses the network.
    """
    module = {"litert": "ai_edge_litert.interpreter", "tflite": "tflite_runtime.interpreter"}[runtime]
    remedies = {
        "litert": "pip install ai-edge-litert",
        "tflite": "pip install 'serstream[tflite]' on Python 3.11",
    }
    try:
        factory = import_module(module).Interpreter
    except ImportError as error:
        raise ModelError(f"runtime {runtime} is not installed ({error}); {remedies[runtime]}") from error
    if runtime == "tflite" and int(np.__version__.partition(".")[0]) >= 2:
        raise ModelError(f"runtime tflite needs NumPy 1.26, here is {np.__version__}; {remedies[runtime]}")
    try:
        return factory(model_content=content, num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"runtime {runtime} cannot run the model: {error}; export the model again") from error


class _Signature:
    """One entry of the network; its named tensors and their quantisation."""

    def __init__(
        self, network: Any, name: str, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]
    ) -> None:
        try:
            self.run = network.get_signature_runner(name)
            self._in, self._out = self.run.get_input_details(), self.run.get_output_details()
            found = {k: tuple(map(int, d["shape"])) for k, d in (self._in | self._out).items() if d["dtype"] is np.int8}
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"the model has no usable signature {name}: {error}; export the model again") from error
        if found != inputs | outputs:
            raise ModelError(
                f"signature {name} of the model has int8 tensors {found}, its manifest needs {inputs | outputs}; "
                "export the model again"
            )

    def scale(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of a tensor."""
        scale, zero = (self._in | self._out)[tensor]["quantization"]
        return float(scale), int(zero)


def pooling_weights(speech: NDArray[np.bool_], stride: int, evidence_frames: int) -> NDArray[np.int64]:
    """Return how much each output of the trunk counts in pooling.

    An output is of as much use as there was speech in what it saw: at the beginning of an utterance, little.

    Parameters
    ----------
    speech : ndarray of shape (evidence_frames + n,)
        Which frames are speech; the last ``n`` are those of the outputs.
    stride : int
        Frames of an output.
    evidence_frames : int
        Frames, up to the last of an output, in which speech is counted.

    Returns
    -------
    weights : ndarray of shape (n // stride,), int64
        The number of speech frames, 0 to ``evidence_frames``; 0 where less than half of an output's own are speech.
    """
    before = np.concatenate([[0], np.cumsum(speech)])
    ends = np.arange(evidence_frames + stride, len(before), stride)
    spoken = 2 * (before[ends] - before[ends - stride]) >= stride
    return np.asarray(np.where(spoken, before[ends] - before[ends - evidence_frames], 0), np.int64)


class Classifier:
    """Turn the frames of one stream into scores, step by step. Called from one thread only.

    Parameters
    ----------
    model : Model
    runtime : {'litert', 'tflite'}
    mean : CepstralMean, optional
        What the frames are normalised by, and which is moved on by them; None for a new one of the manifest.
    """

    def __init__(self, model: Model, runtime: str = "litert", mean: CepstralMean | None = None) -> None:
        self._mean = model.manifest.cepstral_mean() if mean is None else mean
        with _without_chatter():
            self._open(model, interpreter(model.content, runtime))
        self.reset()

    def _open(self, model: Model, network: Any) -> None:
        m = self.manifest = model.manifest
        outputs = m.step_frames // m.stride
        window = m.context_frames + m.step_frames
        channels = _channels(network)
        self._trunk = _Signature(
            network,
            "trunk",
            {"frames": (1, window, m.front_end.n_mfcc)},
            {"activations": (1, outputs, channels)},
        )
        self._head = _Signature(
            network,
            "head",
            {"pooled": (1, 2 * channels)},
            {"emotion": (1, len(m.emotions)), "voice": (1, 2), "speech": (1, 2)},
        )
        self._window = np.empty((1, window, m.front_end.n_mfcc), np.int8)
        self._activations = np.empty((1, m.segment_frames // m.stride, channels), np.int8)
        self._weights = np.empty(m.segment_frames // m.stride, np.int64)
        self._heard = np.empty(m.evidence_frames, bool)
        # the first run allocates and prepares: it must not be the first step of a stream
        self._trunk.run(frames=np.zeros_like(self._window))
        self._head.run(pooled=np.zeros((1, 2 * channels), np.int8))

    def reset(self) -> None:
        """Begin behind a hole: the context is the normalised zero vector, no speech was heard; the mean stays."""
        self._window.fill(self._trunk.scale("frames")[1])
        self._activations.fill(0)
        self._weights.fill(0)
        self._heard.fill(False)

    def step(self, frames: NDArray[np.float32], speech: NDArray[np.bool_]) -> Scores | None:
        """Take the frames of a step.

        Parameters
        ----------
        frames : ndarray of shape (n, n_mfcc)
            MFCC; n is ``step_frames``, or fewer at the end of a stream.
        speech : ndarray of shape (n,)
            Which of them are speech.

        Returns
        -------
        scores : Scores or None
            None while the segment holds less than ``min_segment_frames`` of speech.
        """
        m = self.manifest
        n_outputs = len(frames) // m.stride
        normalised = self._mean.normalise(frames, speech)
        self._window[:, : m.context_frames] = self._window[:, m.step_frames :]
        self._window[0, m.context_frames : m.context_frames + len(frames)] = _quantise(
            normalised, self._trunk.scale("frames")
        )
        new = self._trunk.run(frames=self._window)["activations"][:, :n_outputs]
        heard = np.concatenate([self._heard, speech])
        weights = pooling_weights(heard, m.stride, m.evidence_frames)
        self._heard = heard[len(speech) :]
        self._activations = np.concatenate([self._activations[:, n_outputs:], new], axis=1)
        self._weights = np.concatenate([self._weights[n_outputs:], weights])
        if np.count_nonzero(self._weights) * m.stride < m.min_segment_frames:
            return None
        return self._score(_quantise(self._pool(), self._head.scale("pooled")))

    def _pool(self) -> NDArray[np.float64]:
        """Return weighted mean and deviation of the activations, (1, 2 channels), from exact integer sums."""
        scale, zero = self._trunk.scale("activations")
        x, weights = self._activations[0].astype(np.int64), self._weights
        total, squares, n = weights @ x, weights @ (x * x), int(weights.sum())
        mean = (total / n - zero) * scale
        variance = (n * squares - total * total) / (n * n) * scale**2
        return np.concatenate([mean, np.sqrt(variance + POOLING_EPSILON)])[None]

    def _score(self, pooled: NDArray[np.int8]) -> Scores:
        out = self._head.run(pooled=pooled)
        emotion, voice, speech = (_dequantise(out[k][0], self._head.scale(k)) for k in ("emotion", "voice", "speech"))
        m = self.manifest
        return Scores(softmax(emotion / m.temperature), softmax(voice / m.voice_temperature), float(softmax(speech)[0]))


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep the runtime's notes of what goes well (``INFO: ...``, written by its C++ part) off standard error."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            heard.seek(0)
            for line in heard:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)


def _channels(network: Any) -> int:
    """Return how many channels the trunk has, which the manifest leaves to the network."""
    try:
        return int(network.get_signature_runner("trunk").get_output_details()["activations"]["shape"][-1])
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"the model has no trunk with activations ({error}); export the model again") from error


def _quantise(x: NDArray[Any], scale: tuple[float, int]) -> NDArray[np.int8]:
    """Round to int8, saturating."""
    return np.asarray(np.clip(np.rint(x / scale[0]) + scale[1], -128, 127), np.int8)


def _dequantise(q: NDArray[np.int8], scale: tuple[float, int]) -> NDArray[np.float64]:
    return (q.astype(np.float64) - scale[1]) * scale[0]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(x) / sum(exp(x)), safe against overflow."""
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())
