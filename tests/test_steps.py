"""A stream cut into steps: where each ends depends on the index of its samples alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.features import StreamingMfcc
from serstream.manifest import load_model
from serstream.resources import packaged
from serstream.steps import Steps

MANIFEST = load_model(packaged("models/serstream")).manifest
FIRST, STEP = 4_352, 4_096


def samples(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)


def pushed(steps: Steps, blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [step for block in blocks for step in steps.push(block)]


def test_the_first_step_is_longer_by_what_a_frame_reaches_beyond_its_hop() -> None:
    steps = Steps(MANIFEST)
    y = samples(FIRST + 2 * STEP + 77)
    assert [step.size for step in steps.push(y)] == [FIRST, STEP, STEP]
    assert steps.rest().tolist() == y[-77:].tolist()
    assert steps.rest().size == 0


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=20), n=st.integers(0, 20_000))
def test_cutting_the_stream_anywhere_gives_the_same_steps(cuts: list[int], n: int) -> None:
    y, cut, whole = samples(n), Steps(MANIFEST), Steps(MANIFEST)
    got, expected = pushed(cut, np.split(y, sorted(cuts))), pushed(whole, [y])
    assert [step.tobytes() for step in got] == [step.tobytes() for step in expected]
    assert np.concatenate([*got, cut.rest()]).tobytes() == y.tobytes()
    assert cut.next_sample == whole.next_sample == n


def test_every_step_completes_as_many_frames_as_the_network_takes() -> None:
    steps, mfcc = Steps(MANIFEST), StreamingMfcc(MANIFEST.front_end)
    y = np.zeros(FIRST + 3 * STEP, np.float32)
    assert [len(mfcc.push(step)) for step in steps.push(y)] == [MANIFEST.step_frames] * 4


@pytest.mark.parametrize("n", [1, FIRST - 1, FIRST, FIRST + 100])
def test_a_new_stretch_begins_with_a_long_step_and_nothing_of_before(n: int) -> None:
    steps = Steps(MANIFEST)
    pushed(steps, [samples(n)])
    steps.restart(50_000)
    assert steps.next_sample == 50_000
    y = samples(FIRST + STEP) + 7.0
    assert [step.tolist() for step in steps.push(y)] == [y[:FIRST].tolist(), y[FIRST:].tolist()]
    assert steps.next_sample == 50_000 + y.size


def test_the_next_sample_is_known_at_every_step_and_no_sample_behind_it_is_taken_yet() -> None:
    steps = Steps(MANIFEST)
    seen = [(steps.next_sample, step.size) for step in steps.push(samples(FIRST + STEP + 5))]
    assert seen == [(FIRST, FIRST), (FIRST + STEP, STEP)]
    assert steps.next_sample == FIRST + STEP + 5


def test_the_caller_may_use_its_block_again() -> None:
    steps, block = Steps(MANIFEST), np.ones(100, np.float32)
    assert list(steps.push(block)) == []
    block[:] = np.nan
    assert steps.rest().tolist() == [1.0] * 100


def test_an_empty_block_is_nothing() -> None:
    steps = Steps(MANIFEST)
    assert list(steps.push(samples(0))) == []
    assert (steps.next_sample, steps.rest().size) == (0, 0)
