"""What cepstra are normalised by, measured on the speech of the training speakers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ConfigError
from serstream.training.prepare import Prepared

Array = NDArray[np.float32]


class Normalisation(NamedTuple):
    """Of each cepstral coefficient, mean and standard deviation over the speech of the training speakers.

    ``ordinary`` is the mean less how far a speaker's speech of all moods lies from their neutral speech, on average.
    """

    mean: Array
    std: Array
    ordinary: Array


def normalisation(prepared: Prepared, rows: NDArray[np.int64]) -> Normalisation:
    """Measure the speech frames of labelled clips, over all renderings; raises :class:`ConfigError` without any."""
    total = squares = np.zeros(prepared.features.shape[1])
    count = 0
    for i in rows:
        if not prepared.clips[i].emotion:
            continue
        span = slice(prepared.first[i, 0], prepared.first[i, -1])
        x = prepared.features[span][prepared.speech[span]].astype(np.float64)
        total, squares, count = total + x.sum(axis=0), squares + np.square(x).sum(axis=0), count + x.shape[0]
    if not count:
        raise ConfigError(
            "the training speakers' clips hold no speech; prepare more speakers or leave out another fold"
        )
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    ordinary = mean - _distance_from_neutral(prepared, rows)
    return Normalisation(mean.astype(np.float32), std.astype(np.float32), ordinary.astype(np.float32))


def _distance_from_neutral(prepared: Prepared, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far the mean speech of a speaker lies from that of their neutral clips, averaged over speakers."""
    spoken: dict[str, list[int]] = {}
    for i in rows:
        clip = prepared.clips[i]
        if clip.speaker and not clip.corpus.endswith("song") and prepared.speech[prepared.span(i, 0)].any():
            spoken.setdefault(clip.speaker, []).append(int(i))
    neutral = {s: [i for i in own if prepared.clips[i].emotion == "neutral"] for s, own in spoken.items()}
    distances = [
        _mean_speech(prepared, own) - _mean_speech(prepared, neutral[s]) for s, own in spoken.items() if neutral[s]
    ]
    return np.mean(distances, axis=0) if distances else np.zeros(prepared.features.shape[1])


def _mean_speech(prepared: Prepared, clips: list[int]) -> NDArray[np.float64]:
    spans = [prepared.span(i, 0) for i in clips]
    speech = np.concatenate([prepared.features[s][prepared.speech[s]] for s in spans])
    return np.asarray(speech.mean(axis=0, dtype=np.float64))
