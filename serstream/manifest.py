"""A model on disk: its manifest, and the network that it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from serstream.config import SAMPLE_RATE, Weight
from serstream.errors import ModelError, reason
from serstream.events import LABELS, UNREADABLE
from serstream.features import FrontEnd
from serstream.normalisation import CepstralMean

MODEL_SCHEMA: Literal["serstream-model/5"] = "serstream-model/5"

Frames = Annotated[int, Meta(ge=1, le=10_000)]
HistoryFrames = Annotated[int, Meta(ge=2, le=1_000_000, multiple_of=2)]
FrameWeight = Annotated[float, Meta(gt=0.0, le=1_000_000.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Manifest(msgspec.Struct, frozen=True):
    """What a model was made of and for; ``manifest.json`` beside ``model.tflite``.

    ``emotions`` are the network's outputs; ``groups`` says which of them make each published label, the rest is
    ``other``. Segment, step and least segment are in frames; ``context_frames`` is what the trunk remembers of the
    frames before a step, ``evidence_frames`` as in :func:`serstream.pooling.pooling_weights`.
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
    schema: Literal["serstream-model/5"] = MODEL_SCHEMA

    def __post_init__(self) -> None:
        if any(n % self.stride for n in (self.segment_frames, self.step_frames, self.evidence_frames)):
            raise ValueError(
                f"segment_frames, step_frames and evidence_frames must be multiples of stride {self.stride}"
            )
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
    except UNREADABLE as error:
        raise ModelError(
            f"{folder / 'manifest.json'} is not a manifest of {MODEL_SCHEMA}: {reason(error)}; export the model again"
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
