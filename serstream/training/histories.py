"""What a stream had heard before a crop: the mean that its frames are normalised by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.normalisation import CepstralMean
from serstream.training.augment import N_KNOTS
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import Normalisation

Array = NDArray[np.float32]
Vector = NDArray[np.float64]


class History(NamedTuple):
    """Speech heard before a crop: the sum (n_mfcc,) of the cepstra of ``n_frames`` frames.

    Where ``is_profile``, it is an enrolment, which stands in the place of the prior; where ``frozen``, the mean stays
    where it is.
    """

    total: Vector
    n_frames: int
    is_profile: bool = False
    frozen: bool = False

    def through(self, offset: Array) -> History:
        """Return the history as heard through a channel that adds ``offset`` to every cepstrum."""
        return self._replace(total=self.total + self.n_frames * offset)


def channel_offset(dct: Array, rng: np.random.Generator, spread_db: float) -> Array:
    """Return what a random level (+-12 dB) and a random microphone add to every cepstrum, (n_mfcc,).

    ``dct`` is of shape (n_mfcc, n_mels); the microphone's gain is smooth over frequency, of deviation ``spread_db``.
    """
    at = np.linspace(0.0, 1.0, dct.shape[1]) ** 0.75
    smooth = np.interp(at, np.linspace(0.0, 1.0, N_KNOTS), rng.normal(0.0, spread_db, N_KNOTS))
    return np.asarray(dct @ ((smooth + rng.uniform(-12.0, 12.0)) * (np.log(10.0) / 10.0)), np.float32)


class Histories:
    """Draw what a stream may have heard of a clip's speaker, in the same rendering, before the clip."""

    def __init__(self, prepared: Prepared, scale: Normalisation, recipe: Recipe) -> None:
        self._scale, self._recipe = scale, recipe
        self._clips = prepared.clips
        self._total = np.zeros((len(prepared.clips), prepared.n_variants, scale.mean.size))
        self._count = np.zeros((len(prepared.clips), prepared.n_variants), np.int64)
        self._others: dict[str, list[int]] = {}
        self._neutral: dict[str, list[int]] = {}
        for i, clip in enumerate(prepared.clips):
            if not clip.speaker:
                continue
            self._others.setdefault(clip.speaker, []).append(i)
            if clip.emotion == "neutral" and not clip.corpus.endswith("song"):
                self._neutral.setdefault(clip.speaker, []).append(i)
            for v in range(prepared.n_variants):
                span = prepared.span(i, v)
                speech = prepared.speech[span]
                self._total[i, v] = prepared.features[span][speech].sum(axis=0, dtype=np.float64)
                self._count[i, v] = np.count_nonzero(speech)

    def none(self) -> History:
        """Return what a stream has heard at its beginning."""
        return History(np.zeros(self._scale.mean.size), 0)

    def mean_after(self, history: History) -> CepstralMean:
        """Return the runtime's normalisation as it stands after a history."""
        r, scale = self._recipe, self._scale
        profiled = history.is_profile and history.n_frames > 0
        mean = CepstralMean(
            scale.mean + (history.total / history.n_frames - scale.ordinary if profiled else 0.0),
            scale.std,
            prior_frames=r.profile_frames if profiled else r.prior_frames,
            history_frames=r.history_frames,
            frozen=history.frozen,
        )
        if not profiled:
            mean.remember(history.total, history.n_frames)
        return mean

    def draw(self, row: int, variant: int, rng: np.random.Generator) -> History:
        """Return a random history before a rendering of a clip: none, fixed, of 0 to 60 s, or an enrolment."""
        kind = rng.random()
        if kind < 0.2:
            return self.none()._replace(frozen=True)
        speaker = self._clips[row].speaker
        if kind < 0.4 or not speaker:
            return self.none()
        if kind < 0.6 and self._neutral.get(speaker):
            chosen = rng.permutation(self._neutral[speaker])[: int(rng.integers(2, 9))]
            frozen = bool(rng.random() < 0.5)
            return self._sum_of([i for i in chosen if i != row], variant)._replace(is_profile=True, frozen=frozen)
        return self._past(row, variant, rng)

    def _past(self, row: int, variant: int, rng: np.random.Generator) -> History:
        """Return some of the speaker's other clips, of up to ``history_frames`` frames of speech."""
        wanted = rng.uniform(0.0, self._recipe.history_frames)
        others = [i for i in rng.permutation(self._others[self._clips[row].speaker]) if i != row]
        before = np.concatenate([[0], np.cumsum(self._count[others, variant])])[: len(others)]
        return self._sum_of(others[: int(np.searchsorted(before, wanted))], variant)

    def _sum_of(self, clips: list[int], variant: int) -> History:
        return History(self._total[clips, variant].sum(axis=0), int(self._count[clips, variant].sum()))
