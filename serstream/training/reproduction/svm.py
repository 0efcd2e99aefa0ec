"""The traditional baseline: a linear support vector machine on openSMILE's functionals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from serstream.training.reproduction.outcome import Outcome, Parts

COSTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DEFAULT_COST = 1.0


def fit(parts: Parts) -> Outcome:
    """Fit one machine for each cost; the validation rows choose among them, the smallest of equals."""
    machines = {cost: SVC(kernel="linear", C=cost).fit(*parts.train) for cost in COSTS}
    scores = {cost: float(np.mean(m.predict(parts.validation.x) == parts.validation.y)) for cost, m in machines.items()}
    chosen = max(COSTS, key=lambda cost: scores[cost])

    def predict(cost: float, x: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(machines[cost].predict(x), np.int64)

    return Outcome(
        chosen=chosen,
        test=predict(chosen, parts.test.x),
        test_last=predict(DEFAULT_COST, parts.test.x),
        yardstick=predict(chosen, parts.yardstick.x),
        yardstick_last=predict(DEFAULT_COST, parts.yardstick.x),
        n_parameters=machines[chosen].coef_.size + machines[chosen].intercept_.size,
    )
