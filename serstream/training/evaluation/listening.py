"""One clip through the runtime's pipeline, with what the model knows of the voice given from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.analysis import open_pipeline
from serstream.config import SAMPLE_RATE, Config
from serstream.enrolment import Enrolment
from serstream.events import LABELS, AnyEvent, Posterior, Speech
from serstream.manifest import Manifest, Model
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.pipeline import Pipeline
from serstream.training.evaluation.counts import SECONDS

Samples = NDArray[np.float32]
Vector = NDArray[np.float64]
NOTHING = -1
"""Index of no answer."""
ENROLMENT_S = 30.0
"""Speech that a profile is made of, where there is so much."""


class Heard(NamedTuple):
    """What a clip was heard as.

    ``emotion`` (n_emotions), ``posterior`` (5) and ``voice`` (2) are None without speech; ``named`` is the label
    that held in most steps, ``after`` (8,) the answer so many ``SECONDS`` after speech began: indices of labels, or
    ``NOTHING``. ``speech_s`` is how much speech there was.
    """

    emotion: list[float] | None
    posterior: list[float] | None
    voice: list[float] | None
    named: int
    after: list[int]
    speech_s: float

    @property
    def answer(self) -> int:
        """Index of the label with the largest posterior, or ``NOTHING``."""
        return NOTHING if self.posterior is None else self.posterior.index(max(self.posterior))

    @property
    def emotion_answer(self) -> int:
        """Index of the network's largest output, or ``NOTHING``."""
        return NOTHING if self.emotion is None else self.emotion.index(max(self.emotion))


def stream(samples: Samples, model: Model, config: Config, mean: CepstralMean) -> list[AnyEvent]:
    """Return the events of a whole stream."""
    pipeline = open_pipeline(model, config, mean)
    return pipeline.push(0, samples) + pipeline.finish()


def listen(samples: Samples, model: Model, config: Config, mean: CepstralMean) -> Heard:
    """Hear a clip as ``analyze`` does, and what it would have answered on the way; moves ``mean`` on."""
    pipeline = open_pipeline(model, config, mean)
    events: list[AnyEvent] = []
    answers: list[tuple[int, int]] = []
    for part in np.split(samples, _step_ends(samples.size, model.manifest)):
        events += pipeline.push(pipeline.next_sample, part)
        answers.append((pipeline.next_sample, _answer(pipeline)))
    events += pipeline.finish()
    answers.append((pipeline.next_sample, _answer(pipeline)))
    emotion = pipeline.recording.result()
    return Heard(
        emotion=emotion,
        posterior=None if emotion is None else pipeline.collapse(emotion)[0],
        voice=pipeline.recording_voice.result(),
        named=_named(events),
        after=_after(events, answers),
        speech_s=sum(seconds for _, seconds in speech_steps(events)),
    )


def _step_ends(n_samples: int, manifest: Manifest) -> NDArray[np.int64]:
    front_end = manifest.front_end
    step = manifest.step_frames * front_end.hop_length
    return np.arange(step + front_end.win_length - front_end.hop_length, n_samples, step)


def _answer(pipeline: Pipeline) -> int:
    emotion = pipeline.recording.result()
    return NOTHING if emotion is None else int(np.argmax(pipeline.collapse(emotion)[0]))


def _named(events: Sequence[AnyEvent]) -> int:
    states = Counter(e.state for e in events if isinstance(e, Posterior) and e.state in LABELS)
    return LABELS.index(states.most_common(1)[0][0]) if states else NOTHING


def _after(events: Sequence[AnyEvent], answers: Sequence[tuple[int, int]]) -> list[int]:
    """Return the last answer so long after speech began; a clip that is over keeps its answer."""
    starts = [e.start_s for e in events if isinstance(e, Speech) and e.phase == "start"]
    if not starts:
        return [NOTHING] * len(SECONDS)
    until = [(starts[0] + seconds) * SAMPLE_RATE for seconds in SECONDS]
    return [next((a for at, a in reversed(answers) if at <= end), NOTHING) for end in until]


def speech_steps(events: Sequence[AnyEvent]) -> list[tuple[Posterior, float]]:
    """Return the steps of a stream, each with the seconds of speech in it."""
    steps = [e for e in events if isinstance(e, Posterior)]
    before = [0, *(e.sample for e in steps)]
    return [(e, e.speech * (e.sample - b) / SAMPLE_RATE) for e, b in zip(steps, before, strict=False)]


def profile(clips: Sequence[Samples], model: Model, config: Config) -> list[float] | None:
    """Return the mean that ``serstream enroll`` would take of some clips, one after the other; None without speech."""
    network = Network(model, config.runtime)
    enrolment = Enrolment(network, threshold=config.speech.threshold, wanted_s=ENROLMENT_S)
    at = 0
    for samples in clips:
        enrolment.push(at, samples)
        at += samples.size + 1  # a hole: no frame spans two clips
    return enrolment.mean() if enrolment.speech_s else None
