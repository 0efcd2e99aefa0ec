"""Many streams through one network: what they ask of it at the same time is answered in one call.

A stream is a generator that yields what it asks and is sent the answer. Nothing in it depends on who shares its calls.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from serstream.network import Network, State

MOST_TOGETHER = 64
"""Streams in a call: more make it no cheaper for each."""

Result = TypeVar("Result")


class TrunkStep(NamedTuple):
    """Asks what the trunk makes of normalised ``frames`` (step_frames, n_mfcc) behind a ``state`` of one stream.

    The answer is its outputs (step_frames // stride, channels), int8, the log-odds (step_frames // stride,) that each
    is speech, and the state after them.
    """

    frames: NDArray[np.float32]
    state: State


class Pooled(NamedTuple):
    """Asks what the head says to ``statistics`` (2 channels,); the answer are the logits by the name of the output."""

    statistics: NDArray[np.float64]


Asking = Generator[TrunkStep | Pooled, Any, Result]


def together(network: Network, streams: Sequence[Asking[Result]]) -> list[Result]:
    """Run streams to their ends, and return what each of them returns.

    An error in one of them is an error of all.
    """
    results: dict[int, Result] = {}
    answers: Mapping[int, Any] = dict.fromkeys(range(len(streams)))
    while answers:
        asked: dict[int, TrunkStep | Pooled] = {}
        for i, answer in answers.items():
            try:
                asked[i] = streams[i].send(answer)
            except StopIteration as end:
                results[i] = end.value
        answers = _answers(network, asked)
    return [results[i] for i in range(len(streams))]


def alone(network: Network, stream: Asking[Result]) -> Result:
    """Run one stream to its end, and return what it returns."""
    return together(network, [stream])[0]


def _answers(network: Network, asked: Mapping[int, TrunkStep | Pooled]) -> dict[int, Any]:
    steps = {i: a for i, a in asked.items() if isinstance(a, TrunkStep)}
    pooled = {i: a for i, a in asked.items() if isinstance(a, Pooled)}
    found: dict[int, Any] = {}
    for some in _parts(list(steps)):
        found |= zip(some, _trunk(network, [steps[i] for i in some]), strict=True)
    for some in _parts(list(pooled)):
        found |= zip(some, _head(network, [pooled[i] for i in some]), strict=True)
    return found


def _parts(members: list[int]) -> Iterator[list[int]]:
    return (members[k : k + MOST_TOGETHER] for k in range(0, len(members), MOST_TOGETHER))


def _trunk(
    network: Network, steps: Sequence[TrunkStep]
) -> Iterator[tuple[NDArray[np.int8], NDArray[np.float64], State]]:
    frames, state = np.stack([step.frames for step in steps]), np.concatenate([step.state for step in steps])
    outputs, gate, after = network.trunk(frames, state)
    return ((outputs[i], gate[i], after[i : i + 1]) for i in range(len(steps)))


def _head(network: Network, pooled: Sequence[Pooled]) -> Iterator[dict[str, list[float]]]:
    logits = {name: x.tolist() for name, x in network.head(np.stack([p.statistics for p in pooled])).items()}
    return ({name: x[i] for name, x in logits.items()} for i in range(len(pooled)))
