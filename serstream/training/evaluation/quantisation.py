"""What int8 costs: the float network of a run and the model made from it, both with the mean that never moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serstream.events import LABELS
from serstream.pipeline import Pipeline
from serstream.training.evaluation.bench import Bench, confusion, label_of
from serstream.training.evaluation.counts import Parity
from serstream.training.evaluation.listening import NOTHING, listen
from serstream.training.evaluation.plan import Speaker
from serstream.training.parity import float_network
from serstream.training.prepare import read_clip


def compare(run: Path, bench: Bench, speakers: Sequence[Speaker]) -> dict[str, Any]:
    """Return the counts of both over the five-class clips of some speakers, by corpus."""
    network = float_network(run, bench.model.manifest)
    collapse = Pipeline(bench.model, source="file", session="").collapse
    found = {}
    for corpus in dict.fromkeys(s.corpus for s in speakers):
        clips = [c for s in speakers if s.corpus == corpus for c in s.scored]
        frozen = bench.model.manifest.cepstral_mean
        int8 = [listen(read_clip(c.path), bench.model, bench.config, frozen(frozen=True)).posterior for c in clips]
        exact = [None if np.isnan(p).any() else collapse(p)[0] for p in map(network.hear, clips)]
        said = [[NOTHING if p is None else int(np.argmax(p)) for p in side] for side in (exact, int8)]
        apart = [np.abs(a - b) for a, b in zip(exact, int8, strict=True) if a is not None and b is not None]
        asked = [label_of(c) for c in clips]
        found[corpus] = Parity(
            confusion_float=confusion(asked, said[0], len(LABELS)),
            confusion_int8=confusion(asked, said[1], len(LABELS)),
            equal_decisions=sum(a == b for a, b in zip(*said, strict=True)),
            largest_difference=float(np.max(apart, initial=0.0)),
            mean_difference=float(np.mean(apart)) if apart else 0.0,
        )
    return {"parity": msgspec.to_builtins(found)}
