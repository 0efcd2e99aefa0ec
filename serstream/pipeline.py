"""The whole middle: samples in, events out, without thread, socket, file or clock.

For a fixed session id the events are byte-equal for any way of cutting the signal into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from serstream.batch import Asking, alone
from serstream.classifier import Classifier, Scores
from serstream.config import SAMPLE_RATE, DecisionConfig, SpeechConfig
from serstream.decision import Decision, EmotionChange, UtteranceChange, Utterances
from serstream.ear import Ear
from serstream.errors import ConfigError
from serstream.events import LABELS, VOICES, AnyEvent, Emotion, Posterior, Speech, State
from serstream.features import StreamingMfcc
from serstream.manifest import Manifest
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.posteriors import PosteriorMean, SpeechBelief
from serstream.steps import Samples, Steps

SILENCE_DBFS = -120.0


class Pipeline:
    """Hear one stream. Called from one thread only.

    Parameters
    ----------
    network : Network
        Any number of pipelines of a thread may share it.
    source, session : str
        What the events carry.
    speech : SpeechConfig
    decision : DecisionConfig
        Its thresholds replace those of the model where they are given.
    mean : CepstralMean, optional
        As in :class:`Ear`; it stays through holes.

    Raises
    ------
    ConfigError
        If the thresholds contradict those of the model, see :func:`thresholds`.
    """

    def __init__(
        self,
        network: Network,
        *,
        source: str,
        session: str,
        speech: SpeechConfig | None = None,
        decision: DecisionConfig | None = None,
        mean: CepstralMean | None = None,
    ) -> None:
        self.manifest, self._network = network.manifest, network
        self._ids = {"source": source, "session": session}
        self._speech = speech or SpeechConfig()
        self._hop = self.manifest.front_end.hop_length
        self._steps = Steps(self.manifest)
        self._mfcc = StreamingMfcc(self.manifest.front_end)
        self._ear = Ear(network, mean, threshold=self._speech.threshold)
        self._classifier = Classifier(network)
        self._utterances = Utterances(self._speech)
        self._groups = _grouping(self.manifest.emotions, self.manifest.groups)
        self._decision = Decision(DecisionConfig(), enter=1.0, leave=1.0)
        self.configure(decision or DecisionConfig())
        self.recording = PosteriorMean()
        self.recording_voice = PosteriorMean()
        self._utterance, self._belief = PosteriorMean(), SpeechBelief()
        self._restart(0)

    def configure(self, decision: DecisionConfig) -> None:
        """Change the rules of decision from the next step on; raises :class:`ConfigError` like :func:`thresholds`."""
        enter, leave = thresholds(self.manifest, decision)
        self._decision.configure(decision, enter=enter, leave=leave)
        priors = self.manifest.priors if decision.priors is None else decision.priors
        self._priors = [priors.get(label, 1.0) for label in LABELS]

    def go_on(self, sample: int, emotions: int) -> None:
        """Take the place of a pipeline of this session that had heard so many samples and emotions."""
        self._decision.count = emotions
        self._restart(sample)

    def _restart(self, sample: int) -> None:
        """Begin a stretch without holes at an absolute sample index."""
        self._steps.restart(sample)
        for stage in (self._mfcc, self._ear, self._classifier):
            stage.reset()
        self._frames_at = sample

    @property
    def next_sample(self) -> int:
        """Absolute index of the sample that comes next."""
        return self._steps.next_sample

    @property
    def missing(self) -> int:
        """How many samples more there is something to say of."""
        return self._steps.missing

    def push(self, first_sample: int, samples: Samples) -> list[AnyEvent]:
        """Take the next samples, and return the events up to the last of them.

        Parameters
        ----------
        first_sample : int
            Absolute index of the first of them; a jump ends what is open and starts afresh there.
        samples : ndarray of shape (n_samples,), float32
            Finite amplitudes in [-1, 1] at 16 kHz.

        Raises
        ------
        ValueError
            If ``first_sample`` lies before the end of what was pushed already.
        """
        return alone(self._network, self.hear(first_sample, samples))

    def hear(self, first_sample: int, samples: Samples) -> Asking[list[AnyEvent]]:
        """Take the next samples as :meth:`push` does; a stream for :func:`serstream.batch.together`."""
        if first_sample < self.next_sample:
            raise ValueError(f"sample {first_sample} was pushed already; the next is {self.next_sample}")
        events: list[AnyEvent] = []
        if first_sample > self.next_sample:
            events += yield from self._finish()
            self._restart(first_sample)
        for step in self._steps.push(samples):
            events += yield from self._step(step)
        return events

    def interrupt(self, resume_at: int) -> list[AnyEvent]:
        """Do at a hole what :meth:`finish` does at the end; the next sample is ``resume_at``."""
        events = self.finish()
        self._restart(resume_at)
        return events

    def finish(self) -> list[AnyEvent]:
        """Analyse what is left of a step and end what is open: the stream is over."""
        return alone(self._network, self._finish())

    def _finish(self) -> Asking[list[AnyEvent]]:
        rest = self._steps.rest()
        events = (yield from self._step(rest)) if rest.size else []
        return events + self._close()

    def _step(self, samples: Samples) -> Asking[list[AnyEvent]]:
        """Analyse the samples of a whole step, or what there is of one at the end of a stream."""
        frames = self._mfcc.push(samples)
        if len(frames) < self.manifest.stride:
            return []
        outputs = yield from self._ear.step(frames)
        events: list[AnyEvent] = []
        speech = outputs.speech.tolist()
        for change in self._utterances.push(self._frames_at, self.manifest.stride * self._hop, speech):
            events += self._on_utterance(change)
        self._frames_at += len(frames) * self._hop
        share = sum(speech) / len(speech)
        scores = yield from self._classifier.step(outputs)
        return events + self._on_scores(scores, share, _level_dbfs(samples))

    def _on_utterance(self, change: UtteranceChange) -> list[AnyEvent]:
        start_s = _seconds(change.start)
        if change.phase == "start":
            self._utterance, self._belief = PosteriorMean(), SpeechBelief()
            return [Speech(**self._now(), phase="start", start_s=start_s)]
        assert change.end is not None
        mean = self._utterance.result()
        posterior = None if mean is None else self.collapse(mean)[0]
        best = None if posterior is None else posterior.index(max(posterior))
        end = Speech(
            **self._now(),
            phase="end",
            start_s=start_s,
            end_s=_seconds(change.end),
            label=None if best is None else LABELS[best],
            probability=None if posterior is None or best is None else _rounded(posterior[best]),
            posterior=None if posterior is None else named(LABELS, posterior),
        )
        return [*self._emotions(self._decision.close(self.next_sample)), end]

    def _on_scores(self, scores: Scores | None, share: float, level_dbfs: float) -> list[AnyEvent]:
        posterior, other, changes, is_speech = None, None, [], self._utterances.open
        if scores is not None:
            posterior, other = self.collapse(scores.emotion)
            self.recording.add(scores.emotion, scores.n_spoken)
            self.recording_voice.add(scores.voice, scores.n_spoken)
            if self._utterances.open:
                self._utterance.add(scores.emotion, scores.n_spoken)
                is_speech = self._belief.add(scores.speech) >= self.manifest.speech_threshold
                changes = self._decide(posterior, other) if is_speech else self._decision.close(self.next_sample)
        state: State = self._decision.label or ("uncertain" if is_speech else "no_speech")
        event = Posterior(
            **self._now(),
            posterior=None if posterior is None else named(LABELS, posterior),
            other=None if other is None else _rounded(other),
            voice=None if scores is None else named(VOICES, scores.voice),
            speech=_rounded(share),
            level_dbfs=level_dbfs,
            state=state,
        )
        return [event, *self._emotions(changes)]

    def _decide(self, posterior: list[float], other: float) -> list[EmotionChange]:
        weighted = [p * prior for p, prior in zip(posterior, self._priors, strict=True)]
        total = sum(weighted)
        return self._decision.step([w / total for w in weighted], other, self.next_sample)

    def _close(self) -> list[AnyEvent]:
        change = self._utterances.close()
        if change is not None:
            return self._on_utterance(change)
        return self._emotions(self._decision.close(self.next_sample))

    def _emotions(self, changes: list[EmotionChange]) -> list[AnyEvent]:
        return [
            Emotion(
                **self._now(),
                phase=c.phase,
                id=c.id,
                label=c.label,
                probability=_rounded(c.probability),
                start_s=_seconds(c.start),
                end_s=None if c.end is None else _seconds(c.end),
            )
            for c in changes
        ]

    def _now(self) -> dict[str, Any]:
        return {**self._ids, "sample": self.next_sample, "stream_s": _seconds(self.next_sample)}

    def collapse(self, emotion: Sequence[float]) -> tuple[list[float], float]:
        """Return the posterior of the five labels, summing to 1, and the mass of the other emotions."""
        labels = [sum([emotion[i] for i in group]) for group in self._groups]
        total = sum(labels)
        return [p / total for p in labels], max(0.0, 1.0 - total)


def thresholds(manifest: Manifest, decision: DecisionConfig) -> tuple[float, float]:
    """Return the thresholds for entering and leaving a label: those that are given, else the model's.

    Raises
    ------
    ConfigError
        If the one for leaving is given and above the one for entering.
    """
    enter = manifest.enter_threshold if decision.enter_threshold is None else decision.enter_threshold
    if decision.exit_threshold is None:
        return enter, min(manifest.exit_threshold, enter)
    if decision.exit_threshold > enter:
        raise ConfigError(
            f"decision.exit_threshold is {decision.exit_threshold}, above the enter_threshold {enter} of model "
            f"{manifest.name}; it must be at most that, or give decision.enter_threshold too"
        )
    return enter, decision.exit_threshold


def _grouping(emotions: list[str], groups: dict[str, list[str]]) -> list[list[int]]:
    """Return of each label which outputs are added up for it."""
    return [[i for i, emotion in enumerate(emotions) if emotion in groups[label]] for label in LABELS]


def named(names: tuple[str, ...], values: Sequence[float]) -> dict[str, float]:
    """Return probabilities by name, rounded to four digits."""
    return {name: _rounded(p) for name, p in zip(names, values, strict=True)}


def _rounded(probability: float) -> float:
    return round(probability, 4)


def _seconds(sample: int) -> float:
    return round(sample / SAMPLE_RATE, 6)


def _level_dbfs(samples: Samples) -> float:
    power = float(samples @ samples) / samples.size
    return round(max(SILENCE_DBFS, 10.0 * math.log10(power)), 1) if power > 0.0 else SILENCE_DBFS
