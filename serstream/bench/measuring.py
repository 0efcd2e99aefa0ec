"""Repetitions, and what is told of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.bench.cores import one_core
from serstream.errors import SerstreamError

Blocks = list[NDArray[np.float32]]
Work = Callable[[Blocks], float]
"""Works through a signal in blocks, and returns how much of it was done: frames, steps, seconds of sound."""
SCALES = {"ms": 1e3, "us": 1e6}


class Peer(NamedTuple):
    """How another library does the same: in words, and its work."""

    about: str
    work: Work


class Figure(msgspec.Struct, frozen=True):
    """One figure: ``median`` of ``n`` repetitions, and between which two quartiles half of them lie, in ``unit``."""

    name: str
    about: str
    median: float
    spread: tuple[float, float]
    unit: str
    n: int


class Extent(msgspec.Struct, frozen=True):
    """How much is measured: turns; seconds of the signal of one, of a recording, of a live turn; steps of a stream.

    Of ``streams`` at most, which begin within ``ramp_s``, all must meet their deadlines for ``load_s``; ``patience``
    makes these longer.
    """

    turns: int = 9
    signal_s: float = 120.0
    recording_s: float = 3600.0
    live_s: float = 20.0
    steps: int = 100_000
    streams: int = 4096
    ramp_s: float = 6.4
    load_s: float = 60.0
    patience: float = 1.0


FULL = Extent()
QUICK = Extent(
    turns=3,
    signal_s=10.0,
    recording_s=60.0,
    live_s=2.0,
    steps=2_000,
    streams=4,
    ramp_s=0.256,
    load_s=2.0,
    patience=20.0,
)


class NotHereError(SerstreamError):
    """A figure that this machine cannot have."""


def figure(name: str, about: str, unit: str, values: Sequence[float]) -> Figure:
    """Return what there is to say of repetitions, four digits of it."""
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else 3 * list(values)
    return Figure(name, about, _rounded(middle), (_rounded(low), _rounded(high)), unit, len(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def compare(
    what: str, measure: str, about: str, work: Work, blocks: Blocks, turns: int, peers: Mapping[str, Peer] | None = None
) -> list[Figure]:
    """Measure the CPU time of our work, and in turns with it that of the peers that are installed.

    Parameters
    ----------
    what, measure : str
        ``mfcc`` and ``us_per_frame`` make ``mfcc_us_per_frame``, ``mfcc_us_per_frame_PEER`` and
        ``mfcc_speed_against_PEER``: the ratio of the two, turn by turn. The measure begins with its unit.
    about : str
        Our work in words.
    work : callable
        Is given ``blocks``, as each peer's is.
    turns : int
    peers : mapping from package to Peer, optional
    """
    unit = measure.partition("_")[0]
    here = {name: peer for name, peer in (peers or {}).items() if find_spec(name) is not None}
    costs = _in_turns({"": work, **{name: peer.work for name, peer in here.items()}}, blocks, turns, SCALES[unit])
    own = costs.pop("")
    figures = [figure(f"{what}_{measure}", about, unit, own)]
    for name, theirs in costs.items():
        ratios = [theirs[i] / own[i] for i in range(turns)]
        figures += [
            figure(f"{what}_{measure}_{name}", f"the same by {here[name].about}", unit, theirs),
            figure(f"{what}_speed_against_{name}", f"faster than {here[name].about}", "times", ratios),
        ]
    return figures


def _in_turns(works: Mapping[str, Work], blocks: Blocks, turns: int, scale: float) -> dict[str, list[float]]:
    """Return what a unit of each work costs, on one core, turn by turn after one turn that does not count.

    What slows the machine for a while then slows all of them.
    """
    with one_core():
        runs = [{name: _cpu_s(work, blocks) for name, work in works.items()} for _ in range(turns + 1)]
    return {name: [run[name] * scale for run in runs[1:]] for name in works}


def _cpu_s(work: Work, blocks: Blocks) -> float:
    started_s = time.process_time()
    done = work(blocks)
    return (time.process_time() - started_s) / done
