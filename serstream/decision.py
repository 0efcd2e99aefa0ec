"""From posteriors to a state: utterances, smoothing, hysteresis and dwell. Pure: the sample index is the only clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from serstream.config import SAMPLE_RATE, DecisionConfig, SpeechConfig
from serstream.events import LABELS, Label

OTHER_IS_UNCERTAIN = 0.5
"""Above this smoothed mass of emotions outside the labels, no label holds."""


class UtteranceChange(NamedTuple):
    """An utterance starts or ends; samples are absolute, ``end`` exclusive and None at the start."""

    phase: Literal["start", "end"]
    start: int
    end: int | None


class Utterances:
    """Find utterances: at least ``min_speech_s`` of speech, ended by a pause of ``max_pause_s``."""

    def __init__(self, config: SpeechConfig) -> None:
        self._min_speech = config.min_speech_s * SAMPLE_RATE
        self._max_pause = config.max_pause_s * SAMPLE_RATE
        self.open = False
        self._forget()

    def _forget(self) -> None:
        self._start, self._last, self._heard = -1, -1, 0

    def push(self, first_sample: int, frame_length: int, speech: Iterable[bool]) -> list[UtteranceChange]:
        """Take consecutive frames of ``frame_length`` samples, the first at ``first_sample``."""
        changes = []
        for i, is_speech in enumerate(speech):
            begin = first_sample + i * frame_length
            change = self._hear(begin, frame_length) if is_speech else self._pause(begin + frame_length)
            if change is not None:
                changes.append(change)
        return changes

    def _hear(self, begin: int, frame_length: int) -> UtteranceChange | None:
        if self._start < 0:
            self._start = begin
        self._last = begin + frame_length
        self._heard += frame_length
        if self.open or self._heard < self._min_speech:
            return None
        self.open = True
        return UtteranceChange("start", self._start, None)

    def _pause(self, now: int) -> UtteranceChange | None:
        if self._start < 0 or now - self._last < self._max_pause:
            return None
        return self.close()

    def close(self) -> UtteranceChange | None:
        """End what is open, at its last speech, and forget what was not yet an utterance."""
        change = UtteranceChange("end", self._start, self._last) if self.open else None
        self.open = False
        self._forget()
        return change


class EmotionChange(NamedTuple):
    """An emotion begins, goes on or ends; samples are absolute."""

    phase: Literal["onset", "update", "offset"]
    id: int
    label: Label
    probability: float
    start: int
    end: int | None


class Decision:
    """Which label holds.

    A label is entered at ``enter`` (0..1); another takes over when it reaches ``enter`` above the present one, which
    must have lasted ``min_dwell_s``; it ends below ``exit``, with speech, or when other emotions have the larger mass.
    ``count`` is the id of the last emotion.
    """

    def __init__(self, config: DecisionConfig, *, enter: float, leave: float) -> None:
        self.configure(config, enter=enter, leave=leave)
        self.count = 0
        self.label: Label | None = None
        self._probability = 0.0
        self._start = self._updated = 0
        self._mean: list[float] = []
        self._at = 0

    def configure(self, config: DecisionConfig, *, enter: float, leave: float) -> None:
        """Change the rules from the next step on; what is open stays open."""
        self._smoothing = config.smoothing_s * SAMPLE_RATE
        self._enter, self._exit = enter, leave
        self._dwell = config.min_dwell_s * SAMPLE_RATE
        self._update = config.update_s * SAMPLE_RATE

    def step(self, posterior: Sequence[float], other: float, sample: int) -> list[EmotionChange]:
        """Take the posterior (5,) of a step that ends at ``sample``, within speech."""
        smooth = self._smooth([*posterior, other], sample)
        labels = smooth[:-1]
        best = labels.index(max(labels))
        changes = [] if self.label is None else self._keep_or_end(smooth, best, sample)
        if self.label is None and smooth[best] >= self._enter and smooth[-1] <= OTHER_IS_UNCERTAIN:
            changes.append(self._begin(LABELS[best], smooth[best], sample))
        return changes

    def _smooth(self, values: list[float], sample: int) -> list[float]:
        """Exponential mean with time constant ``smoothing_s``, over the time that passed."""
        if not self._mean or self._smoothing == 0:
            self._mean = values
        else:
            keep = math.exp(-(sample - self._at) / self._smoothing)
            self._mean = [keep * mean + (1.0 - keep) * x for mean, x in zip(self._mean, values, strict=True)]
        self._at = sample
        return self._mean

    def _keep_or_end(self, smooth: list[float], best: int, sample: int) -> list[EmotionChange]:
        assert self.label is not None
        mine = self._probability = smooth[LABELS.index(self.label)]
        beaten = LABELS[best] != self.label and smooth[best] >= self._enter and sample - self._start >= self._dwell
        if beaten or mine < self._exit or smooth[-1] > OTHER_IS_UNCERTAIN:
            return self._end(sample)
        if sample - self._updated < self._update:
            return []
        self._updated = sample
        return [EmotionChange("update", self.count, self.label, mine, self._start, None)]

    def _begin(self, label: Label, probability: float, sample: int) -> EmotionChange:
        self.count += 1
        self.label, self._probability = label, probability
        self._start = self._updated = sample
        return EmotionChange("onset", self.count, label, probability, sample, None)

    def _end(self, sample: int) -> list[EmotionChange]:
        if self.label is None:
            return []
        change = EmotionChange("offset", self.count, self.label, self._probability, self._start, sample)
        self.label = None
        return [change]

    def close(self, sample: int) -> list[EmotionChange]:
        """End what is open, at a pause, a hole or the end, and forget the smoothing."""
        self._mean = []
        return self._end(sample)
