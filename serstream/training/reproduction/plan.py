"""Every model that is fitted, and on what: the ladder's models on each rung, and those that test voices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from serstream.training.reproduction.rungs import RUNGS, Split

Target = Literal["ten", "five", "female", "male"]
"""``ten`` classes of emotion and voice; ``five`` emotions of all voices, or of ``female`` or ``male`` ones alone."""


class ModelPlan(NamedTuple):
    """A model of the ladder; ``paper`` is its accuracy there, in percent; ``epochs`` is 0 for what has none."""

    title: str
    features: Literal["seed", "matrix", "egemaps"]
    scaled: bool
    epochs: int
    quick_epochs: int
    paper: int | None = None
    rungs: tuple[str, ...] = tuple(RUNGS)


MODELS = {
    "mlp": ModelPlan("MLP", "seed", False, 550, 5, paper=25),
    "lstm": ModelPlan("LSTM", "seed", False, 50, 1, paper=15),
    "cnn": ModelPlan("CNN", "seed", False, 400, 3, paper=70),
    "lstm_scaled": ModelPlan("LSTM, input scaled", "seed", True, 50, 1),
    "cnn_matrix": ModelPlan("CNN, 13 MFCC apart", "matrix", False, 400, 3, rungs=("speaker_independent",)),
    "svm": ModelPlan("eGeMAPS, linear SVM", "egemaps", True, 0, 0),
}
VOICE_RUNGS = ("separate_test", "speaker_independent")
VOICE_MODELS = ("cnn", "svm")
APART: tuple[Target, ...] = ("female", "male")
"""In the order of the indices of voices."""
VOICE_TARGETS: tuple[Target, ...] = ("five", *APART)


class Job(NamedTuple):
    """One fit: a model on a split for a target."""

    model: str
    split: Split
    target: Target
    epochs: int

    @property
    def name(self) -> str:
        """What its result is called on disk."""
        return f"{self.model}-{self.split.name}-{self.target}"


def jobs(splits: Sequence[Split], *, quick: bool) -> list[Job]:
    """Return every fit of the reproduction, those with most steps first.

    A quick one fits what is beside the paper's models, and compares voices, on the last rung alone.
    """
    ladder = [_job(m, s, "ten", quick) for m in MODELS for s in splits if s.rung in _rungs(m, quick)]
    tested = [s for s in splits if s.rung in (VOICE_RUNGS[-1:] if quick else VOICE_RUNGS)]
    voices = [_job(m, s, t, quick) for m in VOICE_MODELS for s in tested for t in VOICE_TARGETS]
    return sorted(ladder + voices, key=lambda job: -job.epochs * len(job.split.train))


def _rungs(model: str, quick: bool) -> tuple[str, ...]:
    plan = MODELS[model]
    return plan.rungs[-1:] if quick and plan.paper is None and plan.epochs else plan.rungs


def _job(model: str, split: Split, target: Target, quick: bool) -> Job:
    plan = MODELS[model]
    return Job(model, split, target, plan.quick_epochs if quick else plan.epochs)
