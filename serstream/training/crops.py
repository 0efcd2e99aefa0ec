"""Training examples: a stretch of a clip as the runtime would see it at some step of a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.features import dct_matrix
from serstream.training.corpora import EMOTIONS, SEXES, UNLABELLED
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe

Array = NDArray[np.float32]


class Batch(NamedTuple):
    """Examples for the network.

    ``frames`` (n, window_frames, n_mfcc), ``mask`` (n, outputs of a segment), ``emotion`` and ``allowed`` (n, 8),
    ``voice`` (n, 2).
    """

    frames: Array
    mask: Array
    emotion: Array
    allowed: Array
    voice: Array


class Normalisation(NamedTuple):
    """Mean and standard deviation of each cepstral coefficient over the speech of the training speakers."""

    mean: Array
    std: Array


def normalisation(prepared: Prepared, rows: NDArray[np.int64]) -> Normalisation:
    """Measure the speech frames of some clips, over all renderings; raises :class:`ConfigError` if there are none."""
    total = squares = np.zeros(prepared.features.shape[2])
    count = 0
    for i in rows:
        span = slice(prepared.first[i], prepared.first[i + 1])
        x = (
            prepared.features[:, span][:, prepared.speech[span]]
            .reshape(-1, prepared.features.shape[2])
            .astype(np.float64)
        )
        total, squares, count = total + x.sum(axis=0), squares + np.square(x).sum(axis=0), count + x.shape[0]
    if not count:
        raise ConfigError(
            "the training speakers' clips hold no speech; prepare more speakers or leave out another fold"
        )
    mean = total / count
    return Normalisation(mean.astype(np.float32), np.sqrt(squares / count - mean**2).astype(np.float32))


class CropSampler:
    """Draw batches of crops; the same ``(epoch, step)`` always gives the same batch."""

    def __init__(self, prepared: Prepared, rows: NDArray[np.int64], recipe: Recipe, scale: Normalisation) -> None:
        self._data, self._recipe, self._scale = prepared, recipe, scale
        usable = self.usable(rows)
        self._rows = {
            corpus: np.array([i for i in usable if prepared.clips[i].corpus == corpus], np.int64)
            for corpus in recipe.corpus_shares
        }
        if empty := [corpus for corpus, there in self._rows.items() if not there.size]:
            raise ConfigError(
                f"no clip of {', '.join(empty)} by a training speaker of fold {recipe.fold} holds "
                f"{recipe.min_segment_frames} frames of speech; prepare more of it, or leave it out of corpus_shares"
            )
        self._by_speaker: dict[str, list[int]] = {}
        for i, clip in enumerate(prepared.clips):
            self._by_speaker.setdefault(clip.speaker, []).append(i)
        self._dct = dct_matrix(prepared.front_end.n_mfcc, prepared.front_end.n_mels).astype(np.float32)

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of some clips that hold enough speech for a posterior."""
        return np.array([i for i in rows if self._ends(i).size], np.int64)

    def _ends(self, row: int) -> NDArray[np.int64]:
        """Frames (exclusive) of a clip at which a segment holds enough speech for a posterior."""
        speech = self._data.speech[self._data.first[row] : self._data.first[row + 1]]
        total = np.cumsum(np.concatenate([[0], speech]))
        ends = np.arange(1, speech.size + 1)
        inside = total[ends] - total[np.maximum(0, ends - self._recipe.segment_frames)]
        return np.asarray(ends[inside >= self._recipe.min_segment_frames])

    def batch(self, epoch: int, step: int) -> Batch:
        """Return one training batch, with masks in time and frequency and mixed examples."""
        rng = np.random.default_rng((self._recipe.seed, epoch, step))
        shares = self._recipe.corpus_shares
        names = rng.choice(
            list(shares), self._recipe.batch_size, p=np.array(list(shares.values())) / sum(shares.values())
        )
        rows = [int(rng.choice(self._rows[name])) for name in names]
        variants = rng.integers(self._data.features.shape[0], size=len(rows))
        variants[rng.random(len(rows)) < self._recipe.clean_share] = 0
        crops = [
            self._crop(r, int(rng.choice(self._ends(r))), int(v), rng) for r, v in zip(rows, variants, strict=True)
        ]
        frames = np.stack([c[0] for c in crops])
        self._hide(frames, rng)
        frames = (frames - self._scale.mean) / self._scale.std
        frames[np.stack([c[2] for c in crops])] = 0.0
        batch = Batch(frames, np.stack([c[1] for c in crops]), *self._targets(rows))
        return self._mix(batch, names, rng)

    def _crop(
        self, row: int, end: int, variant: int, rng: np.random.Generator
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the window that ends at frame ``end``, the pooling mask, and where the stream had not begun."""
        recipe, data = self._recipe, self._data
        first, n = int(data.first[row]), recipe.window_frames
        start = max(0, end - n)
        window = np.zeros((n, data.features.shape[2]), np.float32)
        window[n - (end - start) :] = data.features[variant, first + start : first + end]
        speech = np.zeros(n, bool)
        speech[n - (end - start) :] = data.speech[first + start : first + end]
        missing = n - (end - start)
        if missing and rng.random() < 0.5:
            missing = self._prepend(window, missing, variant, data.clips[row].speaker, rng)
        pooled = (
            speech[-recipe.segment_frames :].reshape(-1, recipe.shape.stride).sum(axis=1) * 2 >= recipe.shape.stride
        )
        return window, pooled.astype(np.float32), np.arange(n) < missing

    def _prepend(self, window: Array, missing: int, variant: int, speaker: str, rng: np.random.Generator) -> int:
        """Let another clip of the speaker come before; return how many frames are missing still."""
        other = int(rng.choice(self._by_speaker[speaker]))
        last = int(self._data.first[other + 1])
        n = min(missing, last - int(self._data.first[other]))
        window[missing - n : missing] = self._data.features[variant, last - n : last]
        return missing - n

    def _hide(self, frames: Array, rng: np.random.Generator) -> None:
        """Mask mel bands and stretches of time of half of the crops, in place (SpecAugment, Park et al. 2019)."""
        mean = self._scale.mean
        for x in frames:
            if rng.random() < 0.5:
                width = int(rng.integers(1, 7))
                band = int(rng.integers(0, self._dct.shape[1] - width))
                bands = self._dct[:, band : band + width]
                x[:] -= ((x - mean) @ bands) @ bands.T
            if rng.random() < 0.5:
                length = int(rng.integers(4, 20))
                start = int(rng.integers(0, x.shape[0] - length))
                x[start : start + length] = mean

    def _targets(self, rows: list[int]) -> tuple[Array, Array, Array]:
        clips = [self._data.clips[i] for i in rows]
        emotion = np.eye(len(EMOTIONS), dtype=np.float32)[[EMOTIONS.index(c.emotion) for c in clips]]
        allowed = np.array([[e not in UNLABELLED.get(c.corpus, ()) for e in EMOTIONS] for c in clips], np.float32)
        smoothing = self._recipe.label_smoothing
        emotion = (1 - smoothing) * emotion + smoothing * allowed / allowed.sum(axis=1, keepdims=True)
        return emotion, allowed, np.eye(2, dtype=np.float32)[[SEXES.index(c.sex) for c in clips]]

    def _mix(self, batch: Batch, names: NDArray[np.str_], rng: np.random.Generator) -> Batch:
        """Mix each example with another of its corpus (mixup, Zhang et al. 2018); pooling is over either's speech."""
        partner = np.arange(names.size)
        for name in set(names):
            at = np.flatnonzero(names == name)
            partner[at] = rng.permutation(at)
        if not self._recipe.mixup:
            return batch
        share = rng.beta(self._recipe.mixup, self._recipe.mixup, names.size).astype(np.float32)
        share = np.maximum(share, 1 - share)[:, None]
        blend = [share * x + (1 - share) * x[partner] for x in (batch.emotion, batch.voice)]
        frames = share[:, :, None] * batch.frames + (1 - share[:, :, None]) * batch.frames[partner]
        return Batch(frames, np.maximum(batch.mask, batch.mask[partner]), blend[0], batch.allowed, blend[1])

    def whole_clips(self, rows: NDArray[np.int64]) -> Batch:
        """Return one unaugmented crop of each of some usable clips, as late as it can end: to watch a run by."""
        rng = np.random.default_rng(0)
        crops = [self._crop(int(i), int(self._ends(i)[-1]), 0, rng) for i in rows]
        frames = (np.stack([c[0] for c in crops]) - self._scale.mean) / self._scale.std
        frames[np.stack([c[2] for c in crops])] = 0.0
        return Batch(frames, np.stack([c[1] for c in crops]), *self._targets(rows.tolist()))
