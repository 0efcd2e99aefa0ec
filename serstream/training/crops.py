"""Training examples: a stretch of a clip as the runtime would see it at some step of a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.features import dct_matrix
from serstream.normalisation import CepstralMean
from serstream.pooling import pooling_weights
from serstream.training.corpora import EMOTIONS, SEXES, Clip, emotions_of
from serstream.training.histories import Histories, channel_offset
from serstream.training.prepare import Prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import Normalisation

Array = NDArray[np.float32]
Crop = tuple[Array, Array, Array]
"""Normalised frames (window_frames, n_mfcc), pooling weights and what the gate should say, as in :class:`Batch`."""

OTHER_CLIP_SHARE = 0.3
"""Of the crops that begin later than a stream may, before so many another clip of the speaker was heard."""
DIGITAL_SHARE = 0.1
NEAR_FRAMES, LEAST_ROOM_FRAMES = 4, 16


class Batch(NamedTuple):
    """Examples for the network.

    ``frames`` (n, window_frames, n_mfcc), ``weights`` (n, outputs of a segment) of pooling, zeros where nobody speaks,
    ``emotion`` and ``allowed`` (n, n_emotions), ``voice`` and ``speech`` (n, 2), ``gate`` (n, outputs of a segment, 2),
    whether an output is speech or not. A row of zeros is no target: noise has neither emotion nor voice.
    An emotion that a corpus is not labelled with is not allowed: its speakers may have shown it all the same.
    """

    frames: Array
    weights: Array
    emotion: Array
    allowed: Array
    voice: Array
    speech: Array
    gate: Array


def trained_emotions(prepared: Prepared, recipe: Recipe) -> tuple[str, ...]:
    """Return the outputs of a network: every emotion that a corpus of the recipe is labelled with."""
    return emotions_of(clip for clip in prepared.clips if clip.corpus in recipe.corpus_shares)


class Window(NamedTuple):
    """What the trunk would read, not yet normalised.

    ``frames`` (window_frames, n_mfcc), ``speech`` (window_frames,) as prepared, and ``missing``, the number of frames
    at the front before which the stream had not begun.
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
            corpus: np.array(
                [i for i in own if np.count_nonzero(prepared.speech[prepared.span(i, 0)]) >= recipe.min_segment_frames],
                np.int64,
            )
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
        floor = np.full(prepared.front_end.n_mels, np.log(prepared.front_end.log_floor), np.float32)
        self._silence = np.asarray(self._dct @ floor, np.float32)
        self._histories = Histories(prepared, scale, recipe)

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of some clips that hold enough for a crop: of speech, or of frames where they are noise."""
        return np.array([i for i in rows if self._ends(i, 0).size], np.int64)

    def _ends(self, row: int, variant: int) -> NDArray[np.int64]:
        """Frames (exclusive) of a rendering at which a segment holds enough for a posterior, were noise speech."""
        speech = self._data.speech[self._data.span(row, variant)]
        total = np.cumsum(np.concatenate([[0], speech | (not self._data.clips[row].emotion)]))
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
        quiet = rng.random(len(rows)) < self._recipe.quiet_share
        crops = [self._draw(row, rng, quiet=q) for row, q in zip(rows, quiet.tolist(), strict=True)]
        return self._mix(self._batch(rows, crops), names, rng)

    def _batch(self, rows: list[int], crops: list[Crop]) -> Batch:
        frames, weights, gate = (np.stack(x) for x in zip(*crops, strict=True))
        emotion, allowed, voice = self._targets(rows)
        told = weights.any(axis=1, keepdims=True)
        speech = np.concatenate([told, ~told], axis=1).astype(np.float32)
        return Batch(frames, weights, told * emotion, allowed, told * voice, speech, gate)

    def _choose(self, corpus: str, rng: np.random.Generator) -> int:
        heard = self._heard_noise.get(corpus)
        if heard is not None and heard.size and rng.random() < self._recipe.heard_noise_share:
            return int(rng.choice(heard))
        return int(rng.choice(self._rows[corpus]))

    def _draw(self, row: int, rng: np.random.Generator, *, quiet: bool) -> Crop:
        """Return a random crop of a clip, or of nothing but the silence before it, after a random history."""
        clean = rng.random() < self._recipe.clean_share
        variant = 0 if clean else int(rng.integers(self._data.n_variants))
        ends = self._ends(row, variant)
        if not ends.size:
            variant, ends = 0, self._ends(row, 0)
        end = int(rng.choice(ends))
        window = self._window(row, 0 if quiet and self._data.clips[row].emotion else end, variant, rng)
        history = self._histories.draw(row, variant, rng)
        offset = channel_offset(self._dct, rng, spread_db=0.0 if clean else 2.5)
        window, history = window._replace(frames=window.frames + offset), history.through(offset)
        return self._crop(row, variant, window, self._histories.mean_after(history))

    def _window(self, row: int, end: int, variant: int, rng: np.random.Generator) -> Window:
        """Return the window that ends at frame ``end`` of a rendering, with what was heard before the clip, if any."""
        data, n = self._data, self._recipe.window_frames
        first = int(data.first[row, variant])
        start = max(0, end - n)
        missing = n - (end - start)
        frames = np.zeros((n, data.features.shape[1]), np.float32)
        frames[missing:] = data.features[first + start : first + end]
        speech = np.zeros(n, bool)
        speech[missing:] = data.speech[first + start : first + end]
        if missing and data.clips[row].speaker:
            before = rng.random()
            if end == 0 or before < self._recipe.room_share:
                frames[:missing] = self._room(row, variant, missing, rng)
                missing = 0
            elif before < self._recipe.room_share + OTHER_CLIP_SHARE:
                other = int(rng.choice(self._by_speaker[data.clips[row].speaker]))
                span = data.span(other, variant)
                length = min(missing, span.stop - span.start)
                frames[missing - length : missing] = data.features[span.stop - length : span.stop]
                speech[missing - length : missing] = data.speech[span.stop - length : span.stop]
                missing -= length
        return Window(frames, speech, missing)

    def _room(self, row: int, variant: int, n_frames: int, rng: np.random.Generator) -> Array:
        """Return frames of the place of a rendering while nobody speaks, or of digital silence."""
        span = self._data.span(row, variant)
        near = np.convolve(self._data.speech[span], np.ones(2 * NEAR_FRAMES + 1), "same") > 0.0
        quiet = np.asarray(self._data.features[span][~near], np.float32)
        if len(quiet) < LEAST_ROOM_FRAMES or rng.random() < DIGITAL_SHARE:
            return np.broadcast_to(self._silence, (n_frames, self._silence.size))
        return np.resize(np.roll(quiet, int(rng.integers(len(quiet))), axis=0), (n_frames, quiet.shape[1]))

    def _crop(self, row: int, variant: int, window: Window, mean: CepstralMean) -> Crop:
        """Return the network's inputs and what its gate should say, as the runtime would have them step by step."""
        r, n = self._recipe, len(window.frames)
        frames = np.empty_like(window.frames)
        for end in range(n % r.step_frames or r.step_frames, n + 1, r.step_frames):
            step = slice(max(0, end - r.step_frames), end)
            frames[step] = mean.normalise(window.frames[step])
            mean.move(window.frames[step], window.speech[step])
        frames[: window.missing] = 0.0
        spoken = self._outputs(window.speech & bool(self._data.clips[row].emotion))
        known = self._outputs(np.arange(n) >= window.missing)
        gate = np.stack([spoken & known, ~spoken & known], axis=1)[-r.n_outputs :]
        weights = pooling_weights(spoken, r.n_evidence) / r.n_evidence
        return frames, weights.astype(np.float32), gate.astype(np.float32)

    def _outputs(self, frames: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return of which outputs, in a segment and the evidence before it, at least half the frames are true."""
        r = self._recipe
        n = r.shape.stride * (r.n_outputs + r.n_evidence)
        there = np.pad(frames, (max(0, n - len(frames)), 0))[-n:]
        return np.asarray(2 * np.count_nonzero(there.reshape(-1, r.shape.stride), axis=1) >= r.shape.stride)

    def _targets(self, rows: list[int]) -> tuple[Array, Array, Array]:
        clips = [self._data.clips[i] for i in rows]
        emotions, sexes = np.eye(len(self.emotions), dtype=np.float32), np.eye(2, dtype=np.float32)
        labelled = np.array([bool(c.emotion) for c in clips], np.float32)[:, None]
        emotion = emotions[[self.emotions.index(c.emotion or self.emotions[0]) for c in clips]]
        allowed = np.array([self._allowed[c.corpus] for c in clips], np.float32)
        smoothing = self._recipe.label_smoothing
        emotion = self._with_votes(emotion, clips)
        emotion = (1 - smoothing) * emotion + smoothing * allowed / allowed.sum(axis=1, keepdims=True)
        voice = sexes[[SEXES.index(c.sex or SEXES[0]) for c in clips]]
        return labelled * emotion, allowed, labelled * voice

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
        for name in np.unique(names):
            at = np.flatnonzero(names == name)
            partner[at] = rng.permutation(at)
        if not self._recipe.mixup:
            return batch
        share = rng.beta(self._recipe.mixup, self._recipe.mixup, names.size).astype(np.float32)
        share = np.maximum(share, 1 - share)

        def blend(x: Array) -> Array:
            part = share.reshape(-1, *[1] * (x.ndim - 1))
            return np.asarray(part * x + (1 - part) * x[partner])

        weights = np.maximum(batch.weights, batch.weights[partner])
        emotion, voice, speech = blend(batch.emotion), blend(batch.voice), blend(batch.speech)
        return Batch(blend(batch.frames), weights, emotion, batch.allowed, voice, speech, blend(batch.gate))

    def whole_clips(self, rows: NDArray[np.int64]) -> Batch:
        """Return one unaugmented crop of each of some usable clips, as late as it can end: to watch a run by."""
        rng = np.random.default_rng(0)
        crops = []
        for i in (int(row) for row in rows):
            window = self._window(i, int(self._ends(i, 0)[-1]), 0, rng)
            crops.append(self._crop(i, 0, window, self._histories.mean_after(self._histories.none())))
        return self._batch(rows.tolist(), crops)
