"""Streams that share a network: none of them feels the others."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from serstream.batch import MOST_TOGETHER, TrunkStep, alone, together
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
    rng, n = np.random.default_rng(0), 5
    other = Network(load_model(packaged("models/serstream")))
    among, by_themselves = [pipeline(network) for _ in range(n)], [pipeline(other) for _ in range(n)]
    parts = [demo[at : at + 200_000] for at in rng.integers(0, demo.size // 2, n)]
    at, shared, apart = [0] * n, [list[AnyEvent]() for _ in range(n)], [list[AnyEvent]() for _ in range(n)]
    while any(a < part.size for a, part in zip(at, parts, strict=True)):
        at = [a + 3_000 * (rng.random() < 0.02) for a in at]
        blocks = [part[a : a + int(rng.integers(0, 12_000))] for a, part in zip(at, parts, strict=True)]
        heard = together(network, [p.hear(a, block) for p, a, block in zip(among, at, blocks, strict=True)])
        for i in range(n):
            shared[i] += heard[i]
            apart[i] += by_themselves[i].push(at[i], blocks[i])
            at[i] += blocks[i].size
    for i in range(n):
        assert encoded(shared[i] + among[i].finish()) == encoded(apart[i] + by_themselves[i].finish())
    assert sum(e.type == "emotion" for events in shared for e in events) > 10


def test_what_asks_nothing_is_over_at_once_and_more_than_one_call_holds_are_answered(network: Network) -> None:
    m = network.manifest
    frames = np.zeros((m.step_frames, m.front_end.n_mfcc), np.float32)

    def stream(n_steps: int) -> Generator[TrunkStep, Any, list[bytes]]:
        state, heard = network.at_rest, []
        for _ in range(n_steps):
            outputs, gate, state = yield TrunkStep(frames, state)
            heard.append(outputs.tobytes() + gate.tobytes())
        return heard

    found = together(network, [stream(i % 3) for i in range(2 * MOST_TOGETHER)])
    assert [len(heard) for heard in found] == [i % 3 for i in range(2 * MOST_TOGETHER)]
    assert {step for heard in found for step in heard} == set(alone(network, stream(1)))
    assert together(network, []) == []
