"""Streams that share a network: none of them feels the others."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from serstream.batch import MOST_TOGETHER, Asking, TrunkStep, alone, together
from serstream.config import DecisionConfig
from serstream.events import AnyEvent, encode
from serstream.manifest import load_model
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.recordings import read_file
from serstream.resources import packaged

LIVELY = DecisionConfig(enter_threshold=0.3, exit_threshold=0.2, smoothing_s=0.0, min_dwell_s=0.0)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(load_model(packaged("models/serstream")))


@pytest.fixture(scope="module")
def demo() -> np.ndarray:
    return np.concatenate(list(read_file(packaged("demo.flac"))))


def pipeline(network: Network) -> Pipeline:
    return Pipeline(network, source="mic", session="6f1c", decision=LIVELY)


def encoded(events: list[AnyEvent]) -> list[bytes]:
    return [encode(e) for e in events]


def test_streams_cut_at_random_and_with_holes_hear_together_what_they_hear_alone(
    network: Network, demo: np.ndarray
) -> None:
    rng = np.random.default_rng(0)
    shifts = rng.integers(0, demo.size // 2, 5)
    streams = [
        (pipeline(network), pipeline(Network(load_model(packaged("models/serstream")))), demo[at : at + 200_000])
        for at in shifts
    ]
    at = [0] * len(streams)
    shared: list[list[AnyEvent]] = [[] for _ in streams]
    apart: list[list[AnyEvent]] = [[] for _ in streams]
    while any(a < s[2].size for a, s in zip(at, streams, strict=True)):
        asked: list[Asking[list[AnyEvent]]] = []
        for i, (among, by_itself, samples) in enumerate(streams):
            if rng.random() < 0.02:
                at[i] += 3_000
            block = samples[at[i] : at[i] + int(rng.integers(0, 12_000))]
            asked.append(among.hear(at[i], block))
            apart[i] += by_itself.push(at[i], block)
            at[i] += block.size
        for events, new in zip(shared, together(network, asked), strict=True):
            events += new
    for i, (among, by_itself, _) in enumerate(streams):
        assert encoded(shared[i] + among.finish()) == encoded(apart[i] + by_itself.finish())
    assert sum(e.type == "emotion" for events in shared for e in events) > 10


def test_what_asks_nothing_is_over_at_once_and_more_than_one_call_holds_are_answered(network: Network) -> None:
    m = network.manifest
    frames = np.zeros((m.step_frames, m.front_end.n_mfcc), np.float32)

    def stream(n_steps: int) -> Generator[TrunkStep, Any, list[bytes]]:
        state, heard = network.at_rest, []
        for _ in range(n_steps):
            outputs, state = yield TrunkStep(frames, state)
            heard.append(outputs.tobytes())
        return heard

    found = together(network, [stream(i % 3) for i in range(2 * MOST_TOGETHER)])
    assert [len(heard) for heard in found] == [i % 3 for i in range(2 * MOST_TOGETHER)]
    assert {step for heard in found for step in heard} == set(alone(network, stream(1)))
    assert together(network, []) == []
