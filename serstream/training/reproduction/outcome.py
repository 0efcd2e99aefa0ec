"""What a fit is given and what it leaves, whichever library made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    """Features (n, ...) and class indices (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


class Parts(NamedTuple):
    """The four parts of a split; ``validation`` chooses among the epochs."""

    train: Rows
    validation: Rows
    test: Rows
    yardstick: Rows

    def scaled(self) -> Parts:
        """Return the parts with every input standardised by the training rows."""
        mean, std = self.train.x.mean(axis=0), self.train.x.std(axis=0)
        std = np.where(std > 0, std, 1)
        return Parts(*(Rows(np.asarray((x - mean) / std, np.float32), y) for x, y in self))


@dataclass(frozen=True)
class Outcome:
    """Predicted classes of test and yardstick, by the chosen and by the last epoch.

    ``chosen`` is the chosen epoch, from 1, or another hyperparameter that the validation rows chose; ``curves`` holds
    a figure an epoch. Of a model without epochs, *last* is what it does with its library's default.
    """

    chosen: float
    test: NDArray[np.int64]
    test_last: NDArray[np.int64]
    yardstick: NDArray[np.int64]
    yardstick_last: NDArray[np.int64]
    n_parameters: int
    curves: dict[str, list[float]] = field(default_factory=dict)

    def arrays(self) -> dict[str, Any]:
        """Return the predictions and curves by name, to be saved."""
        predicted = {n: getattr(self, n) for n in ("test", "test_last", "yardstick", "yardstick_last")}
        return predicted | {f"curve_{name}": np.array(curve) for name, curve in self.curves.items()}
