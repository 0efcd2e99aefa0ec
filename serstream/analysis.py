"""A whole recording through the pipeline: what ``analyze`` prints and what the evaluation scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE, Config
from serstream.events import LABELS, VOICES, AnyEvent, Posterior, Speech
from serstream.manifest import Model
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.pipeline import Pipeline, named


class Utterance(msgspec.Struct, frozen=True):
    """A stretch of speech; times in seconds, probabilities 0 to 1; no label when less than half a second was heard."""

    start_s: float
    end_s: float
    label: str | None
    probability: float | None
    posterior: dict[str, float] | None


class Step(msgspec.Struct, frozen=True):
    """One step of the stream, as a ``posterior`` event says it."""

    stream_s: float
    posterior: dict[str, float] | None
    other: float | None
    voice: dict[str, float] | None
    speech: float
    level_dbfs: float
    state: str


class Analysis(msgspec.Struct, frozen=True):
    """A whole recording; ``label`` is the largest of the speech-weighted ``posterior``, None without speech."""

    duration_s: float
    label: str | None
    probability: float | None
    posterior: dict[str, float] | None
    voice: dict[str, float] | None
    utterances: list[Utterance]
    steps: list[Step]


class Heard(NamedTuple):
    """An analysis, and the means behind it, not rounded: of emotions, of the five labels, of voices; or None."""

    analysis: Analysis
    emotion: list[float] | None
    posterior: list[float] | None
    voice: list[float] | None


def open_pipeline(model: Model, config: Config, mean: CepstralMean | None = None) -> Pipeline:
    """Return the pipeline of one recording; ``mean`` as in :class:`Pipeline`."""
    return Pipeline(
        Network(model, config.runtime),
        source="file",
        session="",
        speech=config.speech,
        decision=config.decision,
        mean=mean,
    )


def analyze(
    blocks: Iterable[NDArray[np.float32]], model: Model, config: Config, mean: CepstralMean | None = None
) -> Heard:
    """Run the blocks of a recording (float32 at 16 kHz) through a pipeline of their own.

    ``mean`` is what it begins with, and is moved on; None for a new one, as in :class:`Pipeline`.
    """
    pipeline = open_pipeline(model, config, mean)
    events: list[AnyEvent] = []
    for block in blocks:
        events += pipeline.push(pipeline.next_sample, block)
    n_samples = pipeline.next_sample
    events += pipeline.finish()
    emotion, voice = pipeline.recording.result(), pipeline.recording_voice.result()
    posterior = None if emotion is None else pipeline.collapse(emotion)[0]
    best = None if posterior is None else posterior.index(max(posterior))
    analysis = Analysis(
        duration_s=round(n_samples / SAMPLE_RATE, 6),
        label=None if best is None else LABELS[best],
        probability=None if posterior is None or best is None else round(posterior[best], 4),
        posterior=None if posterior is None else named(LABELS, posterior),
        voice=None if voice is None else named(VOICES, voice),
        utterances=[_pick(Utterance, e) for e in events if isinstance(e, Speech) and e.phase == "end"],
        steps=[_pick(Step, e) for e in events if isinstance(e, Posterior)],
    )
    return Heard(analysis, emotion, posterior, voice)


def _pick(kind: type[Any], event: AnyEvent) -> Any:
    return kind(**{name: getattr(event, name) for name in kind.__struct_fields__})
