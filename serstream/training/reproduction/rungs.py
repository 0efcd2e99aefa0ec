"""Which clips train, validate and test on each rung of the ladder.

A rung changes one thing about how the clips are divided; models and features stay. The paper's clips are RAVDESS
speech of five emotions and SAVEE of the four that it has. RAVDESS's actors of fold 1 are in no rung: every model is
also scored on them, the yardstick.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serstream.errors import SourceError
from serstream.events import LABELS, VOICES
from serstream.training.corpora import RAVDESS_FOLDS, SEXES, Clip, folds, read_corpora

RUNGS = {
    "published": "as published",
    "no_copies": "without copies",
    "separate_test": "separate test set",
    "speaker_independent": "speaker-independent",
}
CLASSES = tuple(f"{voice} {label}" for voice in VOICES for label in LABELS)
N_COPIES = 3
"""How often the seed's folder held each SAVEE file."""
TEST_FOLDS = (2, 3)
"""The folds whose speakers test on the last rung, one model each."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of the clips; a copy is a row that stands twice. ``validation`` chooses the epoch."""

    name: str
    rung: str
    train: Rows
    validation: Rows
    test: Rows
    yardstick: Rows


def paper_clips(data: Path, most_each: int | None = None) -> list[Clip]:
    """Return the paper's clips below ``data``, sorted by path.

    Parameters
    ----------
    data : Path
        As for :func:`serstream.training.corpora.read_corpora`.
    most_each : int, optional
        Keep only the first so many of each speaker's clips of an emotion.
    """
    taken: Counter[tuple[str, str]] = Counter()
    clips = []
    for clip in read_corpora(data):
        if clip.corpus in ("ravdess_speech", "savee") and clip.emotion in LABELS:
            taken[clip.speaker, clip.emotion] += 1
            if most_each is None or taken[clip.speaker, clip.emotion] <= most_each:
                clips.append(clip)
    return clips


def emotion_of(clips: list[Clip]) -> Rows:
    """Return the index of each clip's emotion in ``LABELS``."""
    return np.array([LABELS.index(c.emotion) for c in clips], np.int64)


def voice_of(clips: list[Clip]) -> Rows:
    """Return the index of each clip's voice, 0 female and 1 male."""
    return np.array([SEXES.index(c.sex) for c in clips], np.int64)


def splits(clips: list[Clip], *, seed: int, test_folds: tuple[int, ...] = TEST_FOLDS) -> list[Split]:
    """Divide the clips for every rung, in the order of the ladder.

    Raises
    ------
    SourceError
        If a part of a rung would be without women's or men's voices.
    """
    fold_of = folds(clips)
    held_out = np.array([c.corpus == "ravdess_speech" and fold_of[c.speaker] == 1 for c in clips], bool)
    yardstick, rest = np.flatnonzero(held_out), np.flatnonzero(~held_out)
    found = _by_clip(clips, rest, yardstick, seed) + [_by_speaker(clips, rest, yardstick, k) for k in test_folds]
    for split in found:
        _refuse_without_both_voices(split, clips)
    return found


def _by_clip(clips: list[Clip], rest: Rows, yardstick: Rows, seed: int) -> list[Split]:
    """Divide at random by clip: a fifth tests, and on the third rung a fifth of the others validates."""
    savee = np.array([i for i in rest if clips[i].corpus == "savee"], np.int64)
    rng = np.random.default_rng(seed)
    copied = rng.permutation(np.concatenate([rest] + [savee] * (N_COPIES - 1)))
    once = rng.permutation(rest)
    test, train = np.split(copied, [copied.size // 5])
    alone, others = np.split(once, [once.size // 5])
    validation, fewer = np.split(others, [others.size // 5])
    return [
        Split("published", "published", train, test, test, yardstick),
        Split("no_copies", "no_copies", others, alone, alone, yardstick),
        Split("separate_test", "separate_test", fewer, validation, alone, yardstick),
    ]


def _by_speaker(clips: list[Clip], rest: Rows, yardstick: Rows, fold: int) -> Split:
    """Test on the speakers of a fold; three actors and the SAVEE speaker of the next one validate."""
    fold_of, following = folds(clips), fold % 5 + 1
    watched = {f"ravdess-A{a:02d}" for a in RAVDESS_FOLDS[following - 1][:3]}
    watched |= {s for s, k in fold_of.items() if k == following and not s.startswith("ravdess")}
    part = np.array([0 if fold_of[clips[i].speaker] == fold else 1 + (clips[i].speaker in watched) for i in rest])
    name = f"speaker_independent_{fold}"
    return Split(name, "speaker_independent", rest[part == 1], rest[part == 2], rest[part == 0], yardstick)


def _refuse_without_both_voices(split: Split, clips: list[Clip]) -> None:
    voices = voice_of(clips)
    for part in ("train", "validation", "test", "yardstick"):
        present = set(voices[getattr(split, part)].tolist())
        if missing := {0, 1} - present:
            lacks = " or ".join(VOICES[k] for k in sorted(missing))
            raise SourceError(
                f"the {part} clips of the rung {RUNGS[split.rung]!r} hold no {lacks} voice; "
                "the ladder needs RAVDESS speech of women and men in each of the folds 1 to 4"
            )
