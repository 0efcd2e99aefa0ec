"""Digital silence and a signal that repeats itself: found after the time that is set, and not in sound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serstream.sameness import PERIOD_S, STEP_S, Sameness

RATE = 8_000


def room(seconds, seed=0, levels=3):
    """A quiet room as 16-bit samples: nothing but the lowest bits."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-levels, levels + 1, round(seconds * RATE)) / 32_768).astype(np.float32)


def faults(signal, limit_s, block=400):
    """Return how many samples were heard whenever the fault became another."""
    watch, found = Sameness(RATE, limit_s), [(0, None)]
    for begin in range(0, signal.size, block):
        watch.push(signal[begin : begin + block])
        if watch.fault != found[-1][1]:
            found.append((begin + block, watch.fault))
    return found[1:]


def repeated(period, seconds):
    """Return a signal that repeats so many samples."""
    return np.resize(room(PERIOD_S, seed=period)[:period], round(seconds * RATE))


@pytest.mark.parametrize(
    ("signal", "fault"),
    [
        (np.zeros(6 * RATE, np.float32), "silence"),
        (np.full(6 * RATE, 0.25, np.float32), "stuck"),
        (repeated(441, 6), "stuck"),
        (repeated(round(0.9 * PERIOD_S * RATE), 12), "stuck"),
    ],
)
def test_a_fault_is_found_once_after_the_time_that_is_set_and_is_over_with_the_next_sound(signal, fault):
    (begin, name), (end, sound) = faults(np.concatenate((room(2.03), signal, room(2, seed=1))), 4.0)
    assert (name, sound) == (fault, None)
    in_s, over_s = begin / RATE - 2.03, end / RATE - 2.03 - signal.size / RATE
    assert 4.0 <= in_s <= 4.0 + STEP_S + PERIOD_S * (fault == "stuck") + 0.05
    assert 0.0 <= over_s <= STEP_S + 0.05


@pytest.mark.parametrize("limit_s", [0.5, 1.0, 1.5, 2.2, 4.0])
@pytest.mark.parametrize("before_s", np.arange(2.0, 4.0, 0.13))
def test_what_lasts_half_a_second_longer_than_is_set_is_found_wherever_it_begins(before_s, limit_s):
    period = 441
    stuck = repeated(period, limit_s + STEP_S + period / RATE)
    found = faults(np.concatenate((room(before_s), stuck, room(2, seed=1))), limit_s)
    assert [fault for _, fault in found] == ["stuck", None]


@pytest.mark.parametrize("levels", [1, 3, 300])
def test_a_quiet_room_has_no_fault(levels):
    assert faults(room(30, levels=levels), 1.0) == []


def test_pauses_shorter_than_the_time_that_is_set_are_no_fault():
    pause = np.zeros(int(1.9 * RATE), np.float32)
    assert faults(np.concatenate([part for k in range(5) for part in (room(0.1, seed=k), pause)]), 2.0) == []


def test_without_a_time_nothing_is_a_fault():
    assert faults(np.zeros(30 * RATE, np.float32), None) == []


@given(cuts=st.lists(st.integers(1, 9_000), min_size=1, max_size=30), period=st.integers(1, 3_000))
def test_any_cutting_of_the_signal_counts_the_same(cuts, period):
    signal = np.concatenate((room(0.3), repeated(period, 3), np.zeros(2 * RATE, np.float32)))
    one, many = Sameness(RATE, 1.5), Sameness(RATE, 1.5)
    at = 0
    for size in cuts:
        one.push(signal[at : at + size])
        for sample in np.array_split(signal[at : at + size], 7):
            many.push(sample)
        at += size
        assert one.fault == many.fault
