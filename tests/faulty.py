"""What a microphone that goes wrong owes: every sample heard, or counted in a hole that ends."""

from __future__ import annotations

import random

import numpy as np

from serstream.config import SAMPLE_RATE, MicrophoneSource
from serstream.faults import LONGEST_S, FaultyMicrophone, Kind, Step
from serstream.pulled import Source
from serstream.ring import Block, Hole
from serstream.sameness import STEP_S

LOST = ("input_overflows", "ring_overruns", "device_lost", "stalled")
NAMES = {"input_overflow": "input_overflows", "ring_overrun": "ring_overruns"}
"""Counters that are not called as their cause."""
ANNOUNCED: dict[str, str] = {
    "overflow": "input_overflow",
    "jump": "input_overflow",
    "stalled": "stalled",
    "lost": "device_lost",
    "overrun": "ring_overrun",
    "non_finite": "non_finite",
    "silence": "silence",
    "stuck": "stuck",
}
"""What each kind of fault is announced as; what is not here loses nothing."""


def heard(source: Source) -> list[Block | Hole]:
    """Read a source to its end, and close it."""
    source.open()
    items = []
    while not source.ended:
        if (item := source.read(0.0)) is not None:
            items.append(item)
    source.close()
    return items


def lost_in(items: list[Block | Hole]) -> tuple[int, dict[str, int]]:
    """Return where the index ends and what was lost by counter; it misses nothing else, and every hole ends."""
    at, lost, begun = 0, dict[str, int](), None
    for item in items:
        if isinstance(item, Block):
            assert (item.first_sample, begun) == (at, None)
            assert np.isfinite(item.samples).all()
            at += item.samples.size
        elif item.phase == "start":
            assert (item.first_sample, begun) == (at, None)
            begun = item.cause
        else:
            at += 0 if item.cause == "non_finite" else item.lost_samples
            assert (item.first_sample, item.cause) == (at, begun)
            name, begun = NAMES.get(item.cause, item.cause), None
            lost[name] = lost.get(name, 0) + item.lost_samples
    assert begun is None
    return at, lost


def all_accounted_for(items: list[Block | Hole], counters: dict[str, int]) -> float:
    """Hold that holes are what the counters say, and that nothing else is missing; return the seconds of the index."""
    at, lost = lost_in(items)
    assert lost == {name: counters[name] for name in (*LOST, "non_finite") if counters[name]}
    assert counters["captured"] == counters["consumed"] + counters["ring_overruns"] + counters["unread"]
    assert at == counters["consumed"] + sum(counters[name] for name in LOST)
    return at / SAMPLE_RATE


def survive(kind: Kind, seed: int) -> str | None:
    """Put a fault of a kind, as long as the seed says, into sound; return as what it was announced, None if it was not.

    What is owed is held: nothing else is announced, every sample is accounted for, and sound is heard again.
    """
    config = MicrophoneSource(silence_s=1.0)
    step = Step(kind, random.Random(seed).uniform(1.1 + STEP_S, LONGEST_S))
    source = FaultyMicrophone([Step("sound", 2.0), step, Step("sound", 4.0)], config, seed)
    source.open()
    items, announced = list[Block | Hole](), set[str]()
    while (item := source.read(0.0)) is not None:
        items.append(item)
        announced |= {item.cause} if isinstance(item, Hole) else {source.fault} - {None}
    assert (source.status, source.fault) == ("running", None)
    source.close()
    all_accounted_for(items, source.counters)
    assert len(announced) <= 1
    return next(iter(announced), None)
