"""Score a model on speakers, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serstream.errors import SourceError
from serstream.events import LABELS
from serstream.training.corpora import folds, read_corpora
from serstream.training.score import five_classes, hear, summary


def score(folder: Path, data: Path, *, corpus: str, fold: int | None, runtime: str = "litert") -> dict[str, Any]:
    """Return the figures of a model folder on a corpus, or on the speakers of one fold of it.

    Raises
    ------
    SourceError
        If there is nothing to score.
    """
    everything = read_corpora(data)
    speakers = folds(everything)
    clips = [c for c in five_classes(everything) if c.corpus == corpus and fold in (None, speakers.get(c.speaker))]
    if not clips:
        raise SourceError(f"{data} holds no clips of {corpus} to score; name another --corpus, --fold or --data")
    protocol = {"corpus": corpus, "fold": fold, "speakers": sorted({c.speaker for c in clips})}
    return protocol | summary(hear(folder, clips, runtime=runtime))


def evaluate(folder: Path, data: Path, *, corpus: str, fold: int | None, as_json: bool) -> None:
    """Print the figures."""
    figures = score(folder, data, corpus=corpus, fold=fold)
    if as_json:
        print(json.dumps(figures))
        return
    print(f"{folder} on {figures['clips']} clips of {len(figures['speakers'])} speakers of {corpus}")
    for name in ("uar", "accuracy", "voice_uar", "calibration_error", "no_speech", "uncertain"):
        print(f"{name:>20} {figures[name]:.3f}")
    print("\nasked for \\ heard" + "".join(f"{label:>10}" for label in (*LABELS, "nothing")))
    for label, row in zip(LABELS, figures["confusion"], strict=True):
        print(f"{label:>17}" + "".join(f"{n:>10}" for n in row))
