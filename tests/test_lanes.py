"""Lanes: each as if it were alone, and a logarithm as near to the true one as it says."""

import numpy as np
from numba import njit

from serstream.lanes import LANES, load, load_transposed, log, spread, store


@njit
def logarithms(x: np.ndarray, out: np.ndarray) -> None:
    for at in range(0, x.size, LANES):
        store(out, at, log(load(x, at)))


@njit
def arithmetic(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    a, b = load(x, 1), load(y, 1)
    store(out, 0, (a + b) - spread(np.float32(2.0)) * (b * np.float32(0.5)))


@njit
def transposed(x: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
    load_transposed(x, 3, 20, 4, factors, 1, out, 2)


def test_the_logarithm_has_the_error_that_it_states() -> None:
    smallest, largest = (np.array(x, np.float32).view(np.int32) for x in (np.finfo(np.float32).tiny, 3.4e38))
    spaced = np.linspace(smallest, largest, 400_000).astype(np.int32).view(np.float32)
    around_one = np.linspace(0.5, 2.0, 400_000, dtype=np.float32)
    x = np.concatenate([spaced, around_one])
    got = np.empty_like(x)
    logarithms(x, got)
    true = np.log(x.astype(np.float64))
    assert np.all(np.abs(got - true) <= 1e-7 + 1e-7 * np.abs(true))


def test_what_is_no_number_has_no_logarithm() -> None:
    x = np.ones(LANES, np.float32)
    x[:2] = np.nan, np.inf
    got = np.empty_like(x)
    logarithms(x, got)
    assert np.isnan(got[:2]).all()
    assert np.array_equal(got[2:], np.zeros(LANES - 2))


def test_each_lane_computes_what_a_scalar_would() -> None:
    x, y = np.arange(40, dtype=np.float32), np.arange(40, dtype=np.float32) ** 2
    got = np.empty(LANES, np.float32)
    arithmetic(x, y, got)
    np.testing.assert_array_equal(got, x[1 : LANES + 1])


def test_rows_are_read_across_tapered_and_the_last_is_repeated() -> None:
    x, factors = np.arange(200, dtype=np.float32), np.arange(LANES + 1, dtype=np.float32)
    got = np.full(LANES * LANES + 4, -1.0, np.float32)
    transposed(x, factors, got)
    expected = [[(k + 1) * x[3 + min(lane, 4) * 20 + k] for lane in range(LANES)] for k in range(LANES)]
    np.testing.assert_array_equal(got[2:-2], np.ravel(expected))
    assert np.all(got[[0, 1, -2, -1]] == -1.0)
