"""What was asked of the model before it was trained, and what it reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from serstream.training.evaluation import statistics
from serstream.training.evaluation.counts import Result
from serstream.training.evaluation.results import (
    Figures,
    false_events,
    figures,
    int8,
    reading,
    robustness,
)

RAVDESS, CREMA_D, SAVEE = "ravdess_speech", "crema_d", "savee"
DAEMON = "online"
"""The column of what the daemon does when nobody is enrolled."""


class Bar(NamedTuple):
    """A row: its value, None where it was not measured, and what it must reach; ``lower`` is better or not."""

    name: str
    value: float | None
    bar: float
    aim: float | None
    lower: bool
    form: str

    @property
    def met(self) -> str:
        """``aim``, ``bar``, ``no`` or ``not measured``."""
        if self.value is None or self.value != self.value:
            return "not measured"
        if self.aim is not None and self._reaches(self.value, self.aim):
            return "aim"
        return "bar" if self._reaches(self.value, self.bar) else "no"

    def _reaches(self, value: float, mark: float) -> bool:
        return value <= mark if self.lower else value >= mark


def bars(results: Sequence[Result]) -> list[Bar]:
    """Return every row."""
    return [*_recognition(results), *_trust(results), *_noise(results)]


def _of(results: Sequence[Result], corpus: str, column: str, figure: Callable[[Figures], float]) -> float | None:
    found = figures(results, "five", corpus, column)
    return None if found is None else figure(found)


def _uar(f: Figures) -> float:
    return f.uar


def _recognition(results: Sequence[Result]) -> list[Bar]:
    eight = figures(results, "eight", RAVDESS, DAEMON)
    voices = [_of(results, corpus, DAEMON, lambda f: f.voice) for corpus in (RAVDESS, CREMA_D)]
    rows = [
        ("RAVDESS, 5 classes, int8, UAR, online", _of(results, RAVDESS, DAEMON, _uar), 0.70, 0.80),
        ("RAVDESS, 8 classes, int8, UAR, online", None if eight is None else eight.uar, 0.63, 0.70),
        ("CREMA-D, 5 classes, UAR, online", _of(results, CREMA_D, DAEMON, _uar), 0.57, 0.63),
        ("CREMA-D, 5 classes, UAR, enrolled", _of(results, CREMA_D, "enrolled", _uar), 0.60, 0.67),
        ("SAVEE, 5 classes, UAR, online", _of(results, SAVEE, DAEMON, _uar), 0.40, 0.50),
        ("SAVEE, 5 classes, UAR, enrolled", _of(results, SAVEE, "enrolled", _uar), 0.45, 0.55),
        ("RAVDESS, voice, UAR, online", voices[0], 0.93, 0.97),
        ("CREMA-D, voice, UAR, online", voices[1], 0.93, 0.97),
    ]
    gap = _of(results, RAVDESS, DAEMON, lambda f: abs(f.female - f.male))
    return [
        *(Bar(name, value, bar, aim, False, ".3f") for name, value, bar, aim in rows),
        Bar("RAVDESS, UAR of female against male voices, difference, online", gap, 0.08, 0.05, True, ".3f"),
    ]


def _trust(results: Sequence[Result]) -> list[Bar]:
    lost = int8(results, RAVDESS)
    rows = [Bar("RAVDESS, loss of UAR by int8, points", lost and lost.loss, 0.5, 0.2, True, ".2f")]
    for title, corpus in (("RAVDESS", RAVDESS), ("CREMA-D", CREMA_D)):
        for name, figure, bar, aim in (
            ("expected calibration error", lambda f: f.calibration_error, 0.06, 0.03),
            ("clips that stay uncertain", lambda f: f.uncertain, 0.25, None),
            ("clips without speech", lambda f: f.no_speech, 0.01, None),
        ):
            value = _of(results, corpus, DAEMON, figure)
            rows.append(Bar(f"{title}, {name}, online", value, bar, aim, True, ".3f"))
    return rows


def _noise(results: Sequence[Result]) -> list[Bar]:
    events = false_events(results, DAEMON, ("surroundings", "background"))
    read = reading(results, DAEMON)
    gains = _unchanged(results, ("gain +12 dB", "gain -12 dB"))
    noises = _unchanged(results, ("white noise 20 dB", "recorded noise 20 dB"))
    return [
        Bar("false emotion events per hour of noise, online", events and events.per_hour, 6, 1, True, ".1f"),
        Bar("RAVDESS, decisions unchanged by +-12 dB, the worse, online", gains, 0.95, 0.98, False, ".3f"),
        Bar("RAVDESS, decisions unchanged by noise at 20 dB, the worse, online", noises, 0.85, 0.92, False, ".3f"),
        Bar("LibriSpeech, utterances noticed, online", read and read.detected, 0.98, None, False, ".3f"),
        Bar("LibriSpeech, speech time under labels but calm, online", read and read.not_calm, 0.15, None, True, ".3f"),
    ]


def _unchanged(results: Sequence[Result], names: Sequence[str]) -> float | None:
    found = robustness(results, RAVDESS, DAEMON)
    shares = [statistics.share(found[n].unchanged, sum(map(sum, found[n].confusion))) for n in names if n in found]
    return min(shares, default=None)
