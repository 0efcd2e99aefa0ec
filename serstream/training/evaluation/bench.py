"""What every process of an evaluation shares, and what the model may know of a voice in each column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.config import Config
from serstream.manifest import Model
from serstream.normalisation import CepstralMean
from serstream.training.corpora import Clip
from serstream.training.evaluation.counts import Table
from serstream.training.evaluation.listening import Samples, profile
from serstream.training.evaluation.plan import Speaker
from serstream.training.prepare import read_clip

Column = Literal["none", "online", "cold", "enrolled"]
Part = Literal["clips", "robustness", "streams", "reading"]
Means = Callable[[], CepstralMean]


class Job(NamedTuple):
    """One speaker in one column, for one part of the evaluation."""

    part: Part
    speaker: Speaker
    column: Column

    @property
    def clips(self) -> list[Clip]:
        """What is scored: for eight classes also what could be enrolled on, where it is not."""
        extra = self.speaker.enrolment if self.speaker.eight and self.column != "enrolled" else []
        return self.speaker.scored + extra


class Bench(NamedTuple):
    """What every job needs: the model, the configuration, recordings of noise."""

    model: Model
    config: Config
    noises: list[Samples]

    def means(self, column: Column, enrolment: Sequence[Clip]) -> Means | None:
        """Return what makes the mean that a stream begins with; None if there is no speech to enrol on."""
        cepstral_mean = self.model.manifest.cepstral_mean
        if column == "enrolled":
            clips = [read_clip(c.path) for c in enrolment]
            found = profile(clips, self.model, self.config) if clips else None
            return None if found is None else lambda: cepstral_mean(found)
        return lambda: cepstral_mean(frozen=column == "none")


def confusion(asked: Sequence[int], said: Sequence[int], n_classes: int) -> Table:
    """Return the (n_classes, n_classes + 1) table of counts; -1 in ``said`` stands in the last column."""
    table = np.zeros((n_classes, n_classes + 1), np.int64)
    np.add.at(table, (np.array(asked, np.int64), np.array(said, np.int64)), 1)
    return rows_of(table)


def rows_of(table: NDArray[np.int64]) -> Table:
    """Return a table as lists."""
    return [[int(n) for n in row] for row in table]
