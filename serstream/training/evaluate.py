"""Score a model on speakers, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from serstream.errors import SourceError
from serstream.events import LABELS
from serstream.manifest import load_model, write_manifest
from serstream.training.corpora import Clip, folds, read_corpora
from serstream.training.score import five_classes, hear, summary


def clips_to_score(data: Path, *, corpus: str, fold: int | None) -> list[Clip]:
    """Return the clips of the five classes in a corpus, or those of the speakers of one fold of it.

    Raises
    ------
    SourceError
        If there are none.
    """
    everything = read_corpora(data)
    speakers = folds(everything)
    clips = [c for c in five_classes(everything) if c.corpus == corpus and fold in (None, speakers.get(c.speaker))]
    if not clips:
        raise SourceError(f"{data} holds no clips of {corpus} to score; name another --corpus, --fold or --data")
    return clips


def score(folder: Path, data: Path, *, corpus: str, fold: int | None, runtime: str = "litert") -> dict[str, Any]:
    """Return the figures of a model folder on what :func:`clips_to_score` chooses."""
    clips = clips_to_score(data, corpus=corpus, fold=fold)
    protocol = {"corpus": corpus, "fold": fold, "speakers": sorted({c.speaker for c in clips})}
    return protocol | summary(hear(folder, clips, runtime=runtime))


def record(figures: dict[str, Any], scored: Path, into: Path) -> None:
    """Keep the figures of ``scored`` in the manifest of ``into``: itself, or the model whose recipe it shares."""
    manifest = load_model(into).manifest
    fold = f", fold {figures['fold']}" if figures["fold"] else ""
    kept = {key: value for key, value in figures.items() if key != "speakers"} | {"scored": scored.name}
    scores = manifest.scores | {figures["corpus"] + fold: kept}
    write_manifest(into, msgspec.structs.replace(manifest, scores=scores))


def evaluate(
    folder: Path, data: Path, *, corpus: str, fold: int | None, as_json: bool, into: Path | None = None
) -> None:
    """Print the figures, and keep them in the manifest of ``into`` where it is given."""
    figures = score(folder, data, corpus=corpus, fold=fold)
    if into is not None:
        record(figures, folder, into)
    if as_json:
        print(json.dumps(figures))
        return
    print(f"{folder} on {figures['clips']} clips of {len(figures['speakers'])} speakers of {corpus}")
    for name in ("uar", "accuracy", "voice_uar", "calibration_error", "no_speech", "uncertain"):
        print(f"{name:>20} {figures[name]:.3f}")
    print("\nasked for \\ heard" + "".join(f"{label:>10}" for label in (*LABELS, "nothing")))
    for label, row in zip(LABELS, figures["confusion"], strict=True):
        print(f"{label:>17}" + "".join(f"{n:>10}" for n in row))
