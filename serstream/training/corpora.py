"""What there is to train on: clips with their speaker, emotion and voice, and how speakers are split.

Two layouts are read: a folder with a ``manifest.csv`` (a row a file: path, corpus, speaker, sex, emotion), and a
plain RAVDESS folder, as Zenodo record 1188976 unpacks, whose file names say everything.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from serstream.errors import SourceError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SEXES = ("F", "M")
READ = "libri"
COLUMNS = ("path", "corpus", "speaker", "sex", "emotion")

RAVDESS_FOLDS = (
    (2, 5, 14, 15, 16),
    (3, 6, 7, 13, 18),
    (10, 11, 12, 19, 20),
    (8, 17, 21, 23, 24),
    (1, 4, 9, 22),
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording; ``emotion`` is empty for noise, ``sex`` is F or M or empty.

    ``votes``, where listeners gave them, is how many heard each of ``EMOTIONS`` in it.
    """

    path: Path
    corpus: str
    speaker: str
    sex: str
    emotion: str
    source: str = ""
    votes: tuple[int, ...] = ()


def read_corpora(folder: Path) -> list[Clip]:
    """Return every clip of a folder, sorted by path.

    Raises
    ------
    SourceError
        If the folder has neither a ``manifest.csv`` nor RAVDESS recordings, or the manifest says something wrong.
    """
    manifest = folder / "manifest.csv"
    clips = _read_manifest(manifest) if manifest.is_file() else _read_ravdess(folder)
    if not clips:
        raise SourceError(
            f"{folder} holds neither a manifest.csv nor RAVDESS recordings such as Actor_01/03-01-06-01-02-01-01.wav; "
            "name the folder that does with --data"
        )
    return sorted(clips, key=lambda clip: clip.path.as_posix())


def _read_manifest(manifest: Path) -> list[Clip]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, restval="")
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise SourceError(
                    f"{manifest} has no column {', '.join(missing)}; its first line must name {','.join(COLUMNS)}"
                )
            clips = [_clip(manifest, f"{manifest}, line {table.line_num},", row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{manifest} cannot be read ({error}); write it as CSV in UTF-8") from error
    votes = {corpus: _read_votes(manifest.parent / f"{corpus}_votes.csv") for corpus in {c.corpus for c in clips}}
    return [replace(c, votes=votes[c.corpus].get(c.path.stem, ())) for c in clips]


def _read_votes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the votes of listeners by the name of the clip; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return {row["clip"]: tuple(int(row.get(e) or 0) for e in EMOTIONS) for row in csv.DictReader(lines)}
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise SourceError(
            f"{path} cannot be read ({error}); its columns are clip and emotions, and what it holds are whole numbers"
        ) from error


def _clip(manifest: Path, where: str, row: dict[str, str]) -> Clip:
    """Read a row of a manifest; refuse what is not allowed, or a labelled clip of nobody."""
    for name, allowed in (("emotion", EMOTIONS), ("sex", SEXES)):
        if row[name] and row[name] not in allowed:
            raise SourceError(
                f"{where} has {name} {row[name]!r}; allowed are {', '.join(allowed)}, or nothing for noise"
            )
    needed = ("path", "corpus", "speaker", "sex") if row["emotion"] else ("path", "corpus")
    if empty := [name for name in needed if not row[name]]:
        needs = "F or M" if empty[0] == "sex" else "a name"
        raise SourceError(
            f"{where} has emotion {row['emotion']!r} and an empty {empty[0]}; write {needs} there, or leave the row out"
        )
    source = row.get("label_source", "")
    return Clip(manifest.parent / row["path"], row["corpus"], row["speaker"], row["sex"], row["emotion"], source)


def _read_ravdess(folder: Path) -> list[Clip]:
    files = [p for p in folder.rglob("03-0[12]-*") if p.suffix.lower() in {".wav", ".flac", ".ogg"}]
    return [clip for path in files if (clip := ravdess_clip(path)) is not None]


def ravdess_clip(path: Path) -> Clip | None:
    """Read modality-channel-emotion-intensity-statement-repetition-actor from a name; None if it says no such thing."""
    fields = path.stem.split("-")
    if len(fields) != 7 or not all(f.isdigit() for f in fields) or not 1 <= int(fields[2]) <= len(EMOTIONS):
        return None
    actor = int(fields[6])
    return Clip(
        path=path,
        corpus="ravdess_speech" if fields[1] == "01" else "ravdess_song",
        speaker=f"ravdess-A{actor:02d}",
        sex=SEXES[actor % 2],
        emotion=EMOTIONS[int(fields[2]) - 1],
    )


def folds(clips: list[Clip]) -> dict[str, int]:
    """Assign every speaker with a labelled clip to a fold from 1 to 5.

    RAVDESS actors by the published table; those of any other corpus by the rank of their id within their sex, modulo 5.
    """
    assigned = {f"ravdess-A{a:02d}": k for k, actors in enumerate(RAVDESS_FOLDS, 1) for a in actors}
    labelled = [c for c in clips if c.emotion]
    for corpus in sorted({c.corpus for c in labelled}):
        for sex in SEXES:
            speakers = sorted({c.speaker for c in labelled if c.corpus == corpus and c.sex == sex})
            # a speaker of two corpora stays in the fold of the first
            assigned = {speaker: rank % 5 + 1 for rank, speaker in enumerate(speakers)} | assigned
    return assigned


def emotions_of(clips: Iterable[Clip]) -> tuple[str, ...]:
    """Return which emotions some clips are labelled with, in the order of ``EMOTIONS``."""
    there = {c.emotion for c in clips}
    return tuple(e for e in EMOTIONS if e in there)


def group_of(label: str) -> tuple[str, ...]:
    """Return the emotions that count as one of the published labels."""
    return ("calm", "neutral") if label == "calm" else (label,)


def read_aloud(clips: Iterable[Clip], *, test: bool) -> list[Clip]:
    """Return the read speech of every second speaker, to test with; of the others, to choose with."""
    read = [c for c in clips if c.corpus == READ]
    speakers = sorted({c.speaker for c in read})[int(test) :: 2]
    return [c for c in read if c.speaker in speakers]


def noise_clips(clips: list[Clip]) -> list[Clip]:
    """Return the noise that training may mix in: ESC-50 folds 1 and 2, background noise but for two test files."""
    held_out = ("exercise_bike", "running_tap")
    return [
        c
        for c in clips
        if (c.corpus == "esc50" and c.path.name[0] in "12")
        or (c.corpus == "speechcommands_bg" and not c.path.stem.startswith(held_out))
    ]
