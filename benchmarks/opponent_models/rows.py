"""What an opponent is given, and how its predictions are laid out.

Shapes: N rows, F inputs, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TaskRows:
    """What an opponent is given: inputs [N, F] without gaps, labels [N], and the CPU ``seconds``
    that it may take; ``checkpoints``: of a pretrained one, of classes, then of numbers.
    """

    problem: str
    n_classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    seed: int
    seconds: float
    checkpoints: Sequence[str] = ()

    @property
    def is_regression(self) -> bool:
        return self.problem == "regression"

    @property
    def x(self) -> np.ndarray:
        """Of training and validation rows."""
        return np.concatenate([self.x_train, self.x_valid])

    @property
    def y(self) -> np.ndarray:
        """Of training and validation rows; classes are integers."""
        y = np.concatenate([self.y_train, self.y_valid])
        return y if self.is_regression else y.astype(int)

    def seconds_left(self) -> float:
        """CPU seconds that are left of those of the process that fits this task."""
        return self.seconds - time.process_time()


def by_class(
    rows: TaskRows, classes: Sequence[float] | np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Probabilities of these classes as predictions: [N] of a binary task, else [N, C], 0 for a
    class that no training row has.
    """
    full = np.zeros((len(probabilities), rows.n_classes))
    full[:, np.asarray(classes).astype(int)] = probabilities
    return full[:, 1] if rows.problem == "binary" else full


def predict_test(model: Any, rows: TaskRows) -> np.ndarray:
    """Predictions of the test rows by a model with scikit-learn's methods."""
    if rows.is_regression:
        return np.ravel(model.predict(rows.x_test))
    return by_class(rows, model.classes_, model.predict_proba(rows.x_test))
