"""Which clips are scored, which are enrolled on, and which sounds are no speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from serstream.errors import ConfigError, SourceError
from serstream.manifest import Manifest
from serstream.training.corpora import EMOTIONS, READ, Clip, folds, read_aloud
from serstream.training.score import five_classes

N_ORDERS = 5
EIGHT_CLASSES = "ravdess_speech"
SUNG = "ravdess_song"
PEOPLE = (
    "crying_baby",
    "sneezing",
    "clapping",
    "breathing",
    "coughing",
    "footsteps",
    "laughing",
    "brushing_teeth",
    "snoring",
    "drinking_-_sipping",
)
"""ESC-50's category of human sounds that are not speech."""
KINDS = ("surroundings", "people", "background")


class Speaker(NamedTuple):
    """The clips of one speaker for one table; ``enrolment`` is scored only where ``eight`` and not enrolled on."""

    corpus: str
    name: str
    sex: str
    scored: list[Clip]
    enrolment: list[Clip]
    eight: bool = False


def trained_without(manifest: Manifest) -> tuple[int, int]:
    """Return the fold that a model was trained without, 0 for none, and its seed, from the command that made it."""
    found = re.search(r"\bfold (\d), seed (\d+)", manifest.command)
    if found is None:
        raise ConfigError(
            f"model {manifest.name} does not say what it was trained without (its manifest's command is "
            f"{manifest.command!r}); export it again"
        )
    return int(found[1]), int(found[2])


def generator(*names: str | int) -> np.random.Generator:
    """Return random numbers of their own for what is so named."""
    return np.random.default_rng([n if isinstance(n, int) else crc32(n.encode()) for n in names])


def speakers(clips: Sequence[Clip], manifest: Manifest) -> list[Speaker]:
    """Return who is scored: of a corpus that the model was trained on the fold left out, of any other everyone.

    Raises
    ------
    SourceError
        If there is nobody.
    """
    fold, fold_of = trained_without(manifest)[0], folds(list(clips))
    kept = [
        c
        for c in clips
        if c.emotion and c.corpus != SUNG and (c.corpus not in manifest.corpora or fold_of[c.speaker] == fold)
    ]
    people = {
        (c.corpus, c.speaker, c.sex): [d for d in kept if (d.corpus, d.speaker) == (c.corpus, c.speaker)] for c in kept
    }
    found = [_five(*who, own) for who, own in people.items()]
    if set(EMOTIONS) == set(manifest.emotions):
        found += [_eight(*who, own) for who, own in people.items() if who[0] == EIGHT_CLASSES]
    if not found:
        raise SourceError(
            f"there is no clip of anybody whom model {manifest.name} was not trained on; name another --data"
        )
    return found


def _five(corpus: str, name: str, sex: str, clips: list[Clip]) -> Speaker:
    scored, neutral = five_classes(clips), [c for c in clips if c.emotion == "neutral"]
    enrolment = [c for c in neutral if c not in scored] or half(neutral)
    return Speaker(corpus, name, sex, [c for c in scored if c not in enrolment], enrolment)


def _eight(corpus: str, name: str, sex: str, clips: list[Clip]) -> Speaker:
    enrolment = half([c for c in clips if c.emotion == "neutral"])
    return Speaker(corpus, name, sex, [c for c in clips if c not in enrolment], enrolment, eight=True)


def half(clips: Sequence[Clip]) -> list[Clip]:
    """Return half of some clips of one speaker, always the same."""
    if not clips:
        return []
    order = generator(clips[0].speaker, "enrolment").permutation(len(clips))
    return [clips[i] for i in sorted(order[: len(clips) // 2])]


def noise(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Return the sounds that no training hears, by kind, each in the order of the files: no more than there are."""
    kinds: dict[str, list[Clip]] = {kind: [] for kind in KINDS}
    for clip in clips:
        if clip.corpus == "esc50" and clip.path.name[0] == "3":
            kinds["people" if clip.source in PEOPLE else "surroundings"].append(clip)
        elif clip.corpus == "speechcommands_bg" and clip.path.stem.startswith(("exercise_bike", "running_tap")):
            kinds["background"].append(clip)
    return {kind: members for kind, members in kinds.items() if members}


def recordings_of_noise(clips: Sequence[Clip]) -> list[Clip]:
    """Return what is mixed into speech: of each class of the surroundings one recording, and the background."""
    kinds = noise(clips)
    by_class = {c.source: c for c in reversed(kinds.get("surroundings", []))}
    return [*by_class.values(), *kinds.get("background", [])]


def readers(clips: Sequence[Clip]) -> list[Speaker]:
    """Return the speakers of read speech to test with; who read several clips is enrolled on half of them."""
    read = read_aloud(clips, test=True)
    found = []
    for name in sorted({c.speaker for c in read}):
        own = [c for c in read if c.speaker == name]
        enrolment = half(own)
        found.append(Speaker(READ, name, "", [c for c in own if c not in enrolment], enrolment))
    return found
