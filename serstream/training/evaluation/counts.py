"""What an evaluation keeps: counts by speaker and column, never a clip; one JSON file for each model and fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from serstream.errors import SourceError

SCHEMA: Literal["serstream-evaluation/1"] = "serstream-evaluation/1"
COLUMNS = ("none", "online", "enrolled")
"""What the model may know of a voice: nothing, what it heard before, or half a minute given to it once."""
BESIDE = ("cold", "warm")
"""Of ``online``: every clip by itself, and clips behind 30 s of speech alone."""
SECONDS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Since speech began."""
N_BINS = 15
DELAY_S = 0.25
N_DELAYS = 40
"""A histogram of delays has so many bins of ``DELAY_S``; the last holds what is longer."""

Table = list[list[int]]


class Clips(msgspec.Struct, forbid_unknown_fields=True):
    """Clips of one corpus in one column.

    ``confusion`` of each speaker is (n_classes, n_classes + 1), a row for what was asked for, the last column for no
    answer; ``voice`` of each speaker counts female, male, no answer. ``bins`` (15, 3) hold clips, the sum of their
    confidence and right answers. ``named`` clips ended with a label above the thresholds, ``named_right`` of them
    rightly; ``uncertain`` ones held speech and no label. ``seconds`` (8, n_classes) are right answers so long after
    speech began.
    """

    confusion: dict[str, Table]
    voice: dict[str, list[int]]
    bins: list[list[float]]
    named: int
    named_right: int
    uncertain: int
    no_speech: int
    seconds: Table


class Changed(msgspec.Struct, forbid_unknown_fields=True):
    """Clips under one condition: their confusion, and how many have the answer that they have without it."""

    confusion: Table
    unchanged: int


class Streams(msgspec.Struct, forbid_unknown_fields=True):
    """Streams of joined clips.

    ``references`` clips and ``events`` heard; ``matched`` of them agree in label and begin, ``matched_whole`` in the
    end too. ``delays`` is a histogram over clips of the time to the first event with the right label, without the
    clips that have none. ``switches`` from label to label within ``speech_s`` seconds of utterances.
    """

    references: int
    events: int
    matched: int
    matched_whole: int
    delays: list[int]
    switches: int
    speech_s: float


class Noise(msgspec.Struct, forbid_unknown_fields=True):
    """Sound without speech: its length, emotion events in it by label, and by class of sound."""

    seconds: float
    events: dict[str, int]
    sounds: dict[str, int]


class Reading(msgspec.Struct, forbid_unknown_fields=True):
    """Read speech: utterances that were noticed, and seconds of speech under each state."""

    utterances: int
    detected: int
    states: dict[str, float]


class Parity(msgspec.Struct, forbid_unknown_fields=True):
    """The float network and the int8 model on the same clips, both in the column ``none``."""

    confusion_float: Table
    confusion_int8: Table
    equal_decisions: int
    largest_difference: float
    mean_difference: float


class Result(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """All counts of one model on one fold; corpora, columns, conditions and speakers by name.

    ``fold`` is 0 for a model that no speaker was kept from; corpora but those in ``trained_on`` are scored whole.
    """

    schema: Literal["serstream-evaluation/1"] = SCHEMA
    model: str
    sha256: str
    made_by: str
    trained_on: list[str]
    fold: int
    seed: int
    sexes: dict[str, Literal["F", "M"]] = {}
    five: dict[str, dict[str, Clips]] = {}
    eight: dict[str, dict[str, Clips]] = {}
    robustness: dict[str, dict[str, dict[str, Changed]]] = {}
    streams: dict[str, dict[str, Streams]] = {}
    noise: dict[str, dict[str, Noise]] = {}
    reading: dict[str, Reading] = {}
    parity: dict[str, Parity] = {}


def merged(a: Any, b: Any) -> Any:
    """Add up two trees of counts: numbers and lists of one shape, dictionaries by their keys."""
    if isinstance(a, dict):
        return {k: merged(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in a | b}
    if isinstance(a, list):
        return [merged(x, y) for x, y in zip(a, b, strict=True)]
    if isinstance(a, str):
        assert a == b
        return a
    return a + b


def write(path: Path, result: Result) -> None:
    """Write the counts, numbers with four digits at most behind the point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(_rounded(msgspec.to_builtins(result))) + b"\n")


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded(value) for value in tree]
    return round(tree, 4) if isinstance(tree, float) else tree


def read(path: Path) -> Result:
    """Read what :func:`write` wrote; raises :class:`SourceError` if it is anything else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError) as error:
        raise SourceError(f"{path} holds no counts of {SCHEMA} ({error}); evaluate the model again") from error
