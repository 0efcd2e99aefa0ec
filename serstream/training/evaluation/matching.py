"""Events of a stream against what was said in it. Pure: spans in seconds, labels as names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from serstream.events import AnyEvent, Emotion, Speech
from serstream.training.evaluation.counts import DELAY_S, N_DELAYS

COLLAR_S = 1.0


class Span(NamedTuple):
    """A stretch of a stream, in seconds, and its label."""

    label: str
    start_s: float
    end_s: float


def spans(events: Sequence[AnyEvent]) -> list[Span]:
    """Return the emotions of a stream, in order."""
    return [
        Span(e.label, e.start_s, e.end_s)
        for e in events
        if isinstance(e, Emotion) and e.phase == "offset" and e.end_s is not None
    ]


def utterances(events: Sequence[AnyEvent]) -> list[tuple[float, float]]:
    """Return begin and end of each utterance, in seconds."""
    return [(e.start_s, e.end_s) for e in events if isinstance(e, Speech) and e.phase == "end" and e.end_s is not None]


def matches(references: Sequence[Span], heard: Sequence[Span], *, whole: bool) -> int:
    """Count pairs of equal label that begin within ``COLLAR_S`` of each other, and end so where ``whole``.

    Each event and each reference is in one pair at most; both are in order of time.
    """
    free = list(heard)
    count = 0
    for reference in references:
        for event in free:
            if _agree(reference, event, whole=whole):
                free.remove(event)
                count += 1
                break
    return count


def _agree(a: Span, b: Span, *, whole: bool) -> bool:
    apart = [abs(a.start_s - b.start_s)] + ([abs(a.end_s - b.end_s)] if whole else [])
    return a.label == b.label and max(apart) <= COLLAR_S


def delays(references: Sequence[Span], heard: Sequence[Span]) -> list[float]:
    """Return for each reference that has one the time from its begin to its first event with the right label.

    Such an event begins between the reference's begin and ``COLLAR_S`` behind its end.
    """
    found = []
    for r in references:
        after = [e.start_s for e in heard if e.label == r.label and r.start_s <= e.start_s <= r.end_s + COLLAR_S]
        if after:
            found.append(min(after) - r.start_s)
    return found


def histogram(values: Sequence[float]) -> list[int]:
    """Return how many delays fall into each bin of ``DELAY_S``."""
    counts = [0] * N_DELAYS
    for value in values:
        counts[min(int(value / DELAY_S), N_DELAYS - 1)] += 1
    return counts


def switches(heard: Sequence[Span], spoken: Sequence[tuple[float, float]]) -> int:
    """Count changes from one label to another within one utterance.

    An utterance closes after its pause: what begins in it ends with the next begin at the latest.
    """
    count = 0
    for i, (start, _) in enumerate(spoken):
        until = spoken[i + 1][0] if i + 1 < len(spoken) else float("inf")
        labels = [e.label for e in heard if start <= e.start_s < until]
        count += sum(a != b for a, b in pairwise(labels))
    return count
