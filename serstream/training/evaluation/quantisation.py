"""What int8 costs, counted by corpus: as ``parity`` says it, but with the mean that never moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from serstream.events import LABELS
from serstream.training.evaluation.bench import Bench, confusion
from serstream.training.evaluation.counts import Parity
from serstream.training.evaluation.plan import Speaker
from serstream.training.parity import compare, float_network
from serstream.training.score import answers


def count(run: Path, bench: Bench, speakers: Sequence[Speaker]) -> dict[str, Any]:
    """Return the counts of the float network and the int8 model over the five-class clips of some speakers."""
    network = float_network(run, bench.model.manifest)
    found = {}
    for corpus in dict.fromkeys(s.corpus for s in speakers):
        clips = [c for s in speakers if s.corpus == corpus for c in s.scored]
        both = compare(network, bench.model, clips, frozen=True)
        asked = both.label.tolist()
        found[corpus] = Parity(
            confusion_float=confusion(asked, answers(both.exact).tolist(), len(LABELS)),
            confusion_int8=confusion(asked, answers(both.quantised).tolist(), len(LABELS)),
            equal_decisions=both.equal_decisions,
            largest_difference=both.largest_difference,
            mean_difference=both.mean_difference,
        )
    return {"parity": msgspec.to_builtins(found)}
