"""The capture time of samples: from late callbacks, over days, whatever the device's clock does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serstream.capture_clock import LATE_FOR_S, LATE_S, RELAXATION, WINDOW_S, WINDOWS, CaptureClock

RATE = 16_000
DAY_S = 86_400


def errors_s(clock, period_s, late_s):
    """Return how far off the time of the newest sample is at each callback.

    ``period_s`` is what the device's clock says between callbacks and what passes, ``late_s`` how late each is.
    """
    device_s, passed_s = period_s
    true_s = 1e6 + np.cumsum(passed_s)
    calls_ns = ((true_s + late_s) * 1e9).astype(np.int64).tolist()
    found = [clock.update(at_ns, k * device_s * RATE) + k * device_s * 10**9 for k, at_ns in enumerate(calls_ns, 1)]
    return np.array(found) / 1e9 - true_s


@given(delays_ms=st.lists(st.integers(0, 400), min_size=2, max_size=50))
def test_the_capture_time_of_a_sample_follows_the_least_late_callback(delays_ms):
    clock, period = CaptureClock(RATE), 50_000_000
    for k, delay in enumerate(delays_ms, start=1):
        origin = clock.update(k * period + delay * 1_000_000, k * 800)
    rise = RELAXATION * (len(delays_ms) * period + 400_000_000)
    assert min(delays_ms) * 1_000_000 <= origin + 1 <= min(delays_ms) * 1_000_000 + rise + 1


def test_the_drift_of_a_slow_device_does_not_freeze_its_time():
    clock, drift = CaptureClock(RATE), 1 + 100e-6
    for k in range(1, 20_001):
        origin = clock.update(int(k * 50_000_000 * drift), k * 800)
    assert origin == pytest.approx(20_000 * 50_000_000 * 100e-6, rel=0.01)


@pytest.mark.parametrize(("ppm", "days"), [(-200.0, 7), (200.0, 7), (0.0, 1), (900.0, 1)])
def test_over_a_week_the_time_of_a_sample_stays_true_and_the_drift_is_known(ppm, days):
    rng, clock, n = np.random.default_rng(0), CaptureClock(RATE), days * DAY_S // 5
    # one callback stands for the least late of the hundred of five seconds
    off_s = errors_s(clock, (5, np.full(n, 5 / (1 + ppm / 1e6))), rng.exponential(0.0005, n))
    assert np.abs(off_s[120:]).max() < 0.005
    assert clock.drift_ppm == pytest.approx(ppm, abs=1.0)


def test_a_drift_that_follows_the_temperature_of_the_day_is_followed():
    rng, clock = np.random.default_rng(1), CaptureClock(RATE)
    ppm = 100 + 30 * np.sin(2 * np.pi * np.arange(DAY_S) / DAY_S)
    off_s = errors_s(clock, (1, 1 / (1 + ppm / 1e6)), rng.exponential(0.005, DAY_S))
    assert np.abs(off_s[600:]).max() < 0.005
    assert clock.drift_ppm == pytest.approx(ppm[-1], abs=3.0)


def test_callbacks_that_are_very_late_now_and_then_leave_the_drift_alone():
    rng, clock = np.random.default_rng(2), CaptureClock(RATE)
    late_s = rng.exponential(0.002, 3600) + (rng.random(3600) < 0.3) * rng.uniform(0, 3, 3600)
    errors_s(clock, (1, np.full(3600, 1 / (1 + 50e-6))), late_s)
    assert clock.drift_ppm == pytest.approx(50.0, abs=3.0)


def test_the_drift_is_unknown_until_it_was_measured():
    clock = CaptureClock(RATE)
    found = []
    for second in range(200):
        clock.update(second * 10**9, second * RATE)
        found.append(clock.drift_ppm)
    assert found.index(0.0) == WINDOWS[0] * WINDOW_S


def run(clock, calls):
    """Tell of callbacks (second, samples so far); return what was found lost, and at which of them."""
    found = []
    for k, (at_s, n_samples) in enumerate(calls):
        if lost_s := clock.lost_unannounced(round(at_s * 1e9), n_samples):
            found.append((k, lost_s))
        clock.update(round(at_s * 1e9), n_samples)
    return found


def test_samples_that_never_come_are_found_lost_once():
    clock = CaptureClock(RATE)
    calls = [(0.1 * k, 1600 * k) for k in range(1, 50)] + [(0.1 * k + 0.7, 1600 * k) for k in range(50, 200)]
    ((at, lost_s),) = run(clock, calls)
    assert lost_s == pytest.approx(0.7, abs=0.002)
    assert at - 49 == pytest.approx(LATE_FOR_S * 10, abs=1)


def test_samples_that_come_late_and_then_all_at_once_are_not_lost():
    burst = [(12.0 + 0.001 * k, 1600 * k) for k in range(50, 120)]
    calls = [(0.1 * k, 1600 * k) for k in range(1, 50)] + burst + [(0.1 * k + 0.1, 1600 * k) for k in range(120, 200)]
    assert run(CaptureClock(RATE), calls) == []


def test_a_server_that_buffers_a_little_more_loses_nothing():
    late_s = 0.9 * LATE_S
    calls = [(0.1 * k, 1600 * k) for k in range(1, 50)] + [(0.1 * k + late_s, 1600 * k) for k in range(50, 400)]
    assert run(CaptureClock(RATE), calls) == []
