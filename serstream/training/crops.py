"""Training examples: a stretch of a clip as the runtime would see it at some step of a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.features import dct_matrix
from serstream.pooling import pooling_weights
from serstream.training.corpora import EMOTIONS, SEXES, Clip, emotions_of
from serstream.training.histories import Histories, channel_offset
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import Normalisation

Array = NDArray[np.float32]


class Batch(NamedTuple):
    """Examples for the network.

    ``frames`` (n, window_frames, n_mfcc), ``weights`` (n, outputs of a segment) of pooling, ``emotion`` and ``allowed``
    (n, n_emotions), ``voice`` and ``speech`` (n, 2). A row of zeros is no target: noise has neither emotion nor voice.
    An emotion that a corpus is not labelled with is not allowed: its speakers may have shown it all the same.
    """

    frames: Array
    weights: Array
    emotion: Array
    allowed: Array
    voice: Array
    speech: Array


def trained_emotions(prepared: Prepared, recipe: Recipe) -> tuple[str, ...]:
    """Return the outputs of a network: every emotion that a corpus of the recipe is labelled with."""
    return emotions_of(clip for clip in prepared.clips if clip.corpus in recipe.corpus_shares)


class Window(NamedTuple):
    """What the trunk would read, not yet normalised.

    ``frames`` (window_frames, n_mfcc), ``speech`` (window_frames,) and ``missing``, the number of frames at the front
    before which the stream had not begun.
    """

    frames: Array
    speech: NDArray[np.bool_]
    missing: int


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
        self._heard_noise = {
            corpus: np.array([i for i in own if self._gated(i) >= recipe.min_segment_frames], np.int64)
            for corpus, own in self._rows.items()
            if not prepared.clips[own[0]].emotion
        }
        self._by_speaker: dict[str, list[int]] = {}
        for i, clip in enumerate(prepared.clips):
            if clip.speaker:
                self._by_speaker.setdefault(clip.speaker, []).append(i)
        self.emotions = trained_emotions(prepared, recipe)
        labels = {c: emotions_of(clip for clip in prepared.clips if clip.corpus == c) for c in recipe.corpus_shares}
        self._allowed = {c: [e in there or not there for e in self.emotions] for c, there in labels.items()}
        self._dct = dct_matrix(prepared.front_end.n_mfcc, prepared.front_end.n_mels).astype(np.float32)
        self._histories = Histories(prepared, scale, recipe)

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of some clips that hold enough for a crop: of speech, or of frames where they are noise."""
        return np.array([i for i in rows if self._ends(i, 0).size], np.int64)

    def _heard(self, row: int, variant: int) -> NDArray[np.bool_]:
        """Return which frames are pooled: speech; in noise that the gate takes for none, all."""
        speech = self._data.speech[self._data.span(row, variant)]
        if self._data.clips[row].emotion or np.count_nonzero(speech) >= self._recipe.min_segment_frames:
            return speech
        return np.ones_like(speech)

    def _ends(self, row: int, variant: int) -> NDArray[np.int64]:
        """Frames (exclusive) of a rendering at which a segment holds enough for a posterior."""
        total = np.cumsum(np.concatenate([[0], self._heard(row, variant)]))
        ends = np.arange(1, total.size)
        inside = total[ends] - total[np.maximum(0, ends - self._recipe.segment_frames)]
        return np.asarray(ends[inside >= self._recipe.min_segment_frames])

    def batch(self, epoch: int, step: int) -> Batch:
        """Return one training batch, with mixed examples."""
        rng = np.random.default_rng((self._recipe.seed, epoch, step))
        shares = self._recipe.corpus_shares
        names = rng.choice(
            list(shares), self._recipe.batch_size, p=np.array(list(shares.values())) / sum(shares.values())
        )
        rows = [self._choose(name, rng) for name in names]
        crops = [self._draw(row, rng) for row in rows]
        batch = Batch(np.stack([c[0] for c in crops]), np.stack([c[1] for c in crops]), *self._targets(rows))
        return self._mix(batch, names, rng)

    def _choose(self, corpus: str, rng: np.random.Generator) -> int:
        heard = self._heard_noise.get(corpus)
        if heard is not None and heard.size and rng.random() < self._recipe.heard_noise_share:
            return int(rng.choice(heard))
        return int(rng.choice(self._rows[corpus]))

    def _gated(self, row: int) -> int:
        """Return how many frames of a clip the gate takes for speech."""
        return int(np.count_nonzero(self._data.speech[self._data.span(row, 0)]))

    def _draw(self, row: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return a random crop of a clip, normalised after a random history, and its pooling weights."""
        clean = rng.random() < self._recipe.clean_share
        variant = 0 if clean else int(rng.integers(self._data.n_variants))
        ends = self._ends(row, variant)
        if not ends.size:
            variant, ends = 0, self._ends(row, 0)
        window = self._window(row, int(rng.choice(ends)), variant, rng)
        history = self._histories.draw(row, variant, rng)
        offset = channel_offset(self._dct, rng, spread_db=0.0 if clean else 2.5)
        window, history = window._replace(frames=window.frames + offset), history.through(offset)
        frames = self._histories.mean_after(history).normalise(window.frames, window.speech)
        frames[: window.missing] = 0.0
        return frames, self._pooled(window.speech)

    def _window(self, row: int, end: int, variant: int, rng: np.random.Generator) -> Window:
        """Return the window that ends at frame ``end`` of a rendering; sometimes another clip comes before it."""
        data, n = self._data, self._recipe.window_frames
        first = int(data.first[row, variant])
        start = max(0, end - n)
        missing = n - (end - start)
        frames = np.zeros((n, data.features.shape[1]), np.float32)
        frames[missing:] = data.features[first + start : first + end]
        speech = np.zeros(n, bool)
        speech[missing:] = self._heard(row, variant)[start:end]
        if missing and data.clips[row].speaker and rng.random() < 0.3:
            other = int(rng.choice(self._by_speaker[data.clips[row].speaker]))
            span = data.span(other, variant)
            length = min(missing, span.stop - span.start)
            frames[missing - length : missing] = data.features[span.stop - length : span.stop]
            speech[missing - length : missing] = data.speech[span.stop - length : span.stop]
            missing -= length
        return Window(frames, speech, missing)

    def _pooled(self, speech: NDArray[np.bool_]) -> Array:
        r = self._recipe
        n = r.segment_frames + r.evidence_frames
        heard = np.pad(speech, (max(0, n - len(speech)), 0))[-n:]
        weights = pooling_weights(heard, r.shape.stride, r.evidence_frames)
        return np.asarray(weights / r.evidence_frames, np.float32)

    def _targets(self, rows: list[int]) -> tuple[Array, Array, Array, Array]:
        clips = [self._data.clips[i] for i in rows]
        emotions, sexes = np.eye(len(self.emotions), dtype=np.float32), np.eye(2, dtype=np.float32)
        labelled = np.array([bool(c.emotion) for c in clips], np.float32)[:, None]
        emotion = emotions[[self.emotions.index(c.emotion or self.emotions[0]) for c in clips]]
        allowed = np.array([self._allowed[c.corpus] for c in clips], np.float32)
        smoothing = self._recipe.label_smoothing
        emotion = self._with_votes(emotion, clips)
        emotion = (1 - smoothing) * emotion + smoothing * allowed / allowed.sum(axis=1, keepdims=True)
        voice = sexes[[SEXES.index(c.sex or SEXES[0]) for c in clips]]
        return labelled * emotion, allowed, labelled * voice, np.concatenate([labelled, 1 - labelled], axis=1)

    def _with_votes(self, emotion: Array, clips: list[Clip]) -> Array:
        """Return the targets, a part of each given to what listeners heard in its clip."""
        weight, kept = self._recipe.votes_weight, [EMOTIONS.index(e) for e in self.emotions]
        for i, clip in enumerate(clips):
            votes = np.array(clip.votes, np.float32)[kept] if weight and clip.votes else np.zeros(0, np.float32)
            if votes.any():
                emotion[i] = (1 - weight) * emotion[i] + weight * votes / votes.sum()
        return emotion

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
        weights = np.maximum(batch.weights, batch.weights[partner])
        return Batch(frames, weights, blend[0], batch.allowed, blend[1], batch.speech)

    def whole_clips(self, rows: NDArray[np.int64]) -> Batch:
        """Return one unaugmented crop of each of some usable clips, as late as it can end: to watch a run by."""
        rng = np.random.default_rng(0)
        frames, weights = [], []
        for i in (int(row) for row in rows):
            window = self._window(i, int(self._ends(i, 0)[-1]), 0, rng)
            x = self._histories.mean_after(self._histories.none()).normalise(window.frames, window.speech)
            x[: window.missing] = 0.0
            frames.append(x)
            weights.append(self._pooled(window.speech))
        return Batch(np.stack(frames), np.stack(weights), *self._targets(rows.tolist()))
