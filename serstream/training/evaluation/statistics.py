"""Figures of counts: recall, calibration, and how sure of them one can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Counts = NDArray[np.int64]
N_DRAWS = 2000
"""Draws of a bootstrap."""


def recalls(confusion: ArrayLike) -> NDArray[np.float64]:
    """Return the recall of every class that occurs.

    Parameters
    ----------
    confusion : array-like of shape (..., n, n + 1)
        Counts, a row for what was asked for; the last column counts clips without an answer.
    """
    table = np.asarray(confusion, np.float64)
    asked = table.sum(axis=-1)
    hit = np.diagonal(table, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(hit / asked)


def uar(confusion: ArrayLike) -> float:
    """Return the unweighted average recall over the classes that occur; NaN without any."""
    values = recalls(confusion)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def accuracy(confusion: ArrayLike) -> float:
    """Return the share of clips with the right answer."""
    table = np.asarray(confusion, np.float64)
    return share(np.trace(table), table.sum())


def macro_f1(confusion: ArrayLike) -> float:
    """Return the mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""
    table = np.asarray(confusion, np.float64)
    hit, asked, said = np.diagonal(table), table.sum(axis=1), table[:, :-1].sum(axis=0)
    there = asked > 0
    return float(np.mean(2 * hit[there] / (asked + said)[there])) if there.any() else float("nan")


def calibration_error(bins: ArrayLike) -> float:
    """Return the expected calibration error (Guo et al. 2017).

    Parameters
    ----------
    bins : array-like of shape (n_bins, 3)
        Number of clips, sum of their confidence, number of right answers.
    """
    n, confidence, right = np.asarray(bins, np.float64).T
    return share(np.abs(confidence - right).sum(), n.sum())


def bootstrap_uar(by_speaker: Sequence[ArrayLike], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the UAR over speakers drawn with replacement.

    Parameters
    ----------
    by_speaker : sequence of array-like of shape (n, n + 1)
        A confusion matrix of each speaker; seeds and orders of one speaker are added up before.
    """
    tables = np.asarray(by_speaker, np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(tables), np.full(len(tables), 1 / len(tables)), size=N_DRAWS)
    sums = np.tensordot(drawn, tables, axes=1)
    low, high = np.nanpercentile(np.nanmean(recalls(sums), axis=1), [2.5, 97.5])
    return float(low), float(high)


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of the mean of a Poisson count (Garwood 1936)."""
    low = 0.0 if count == 0 else float(stats.chi2.ppf(0.025, 2 * count)) / 2
    return low, float(stats.chi2.ppf(0.975, 2 * count + 2)) / 2


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of the figures of several seeds; None with fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def median_of_bins(counts: Sequence[int], width: float) -> float | None:
    """Return the median of a histogram whose bins are ``width`` wide from 0, linear within a bin; None if empty."""
    total = np.cumsum(counts)
    if not total.size or not total[-1]:
        return None
    half = total[-1] / 2
    at = int(np.searchsorted(total, half))
    before = total[at - 1] if at else 0
    return float((at + (half - before) / counts[at]) * width)


def share(part: float, whole: float) -> float:
    """Return ``part / whole``; NaN of nothing."""
    return float(part) / float(whole) if whole else float("nan")
