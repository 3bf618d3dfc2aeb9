"""How the predictions of unlike members become one: a weighted mean and, for values, a line.

A mean of models varies less than the truth that each of them predicts: each is drawn towards the
mean by its own penalties, and what they disagree on cancels. So values are stretched around their
mean by a slope that labels bear out which no member has seen; of few labels the slope stays near 1.
A probability's slope is the calibrator's (m3h_core/calibration), and ranks stay as they are.

Shapes: N samples, n labelled rows that are read, C classes, K folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from m3h_core.data.cohort import VALID, Cohort
from m3h_core.data.folds import select_by_fold
from m3h_core.data.tasks import TaskSpec
from m3h_core.ensemble.shares import fit_network_shares, mix_predictions

# The prior's standard deviation of a slope around 1.
_SLOPE_SCALE = 0.1
_FEWEST_LABELS = 10


def average_networks(
    predictions: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The mean of the predictions {task: [N] or [N, C]} of unlike networks, of the first one's
    tasks; each task's of those that predict it.

    >>> average_networks([{"death": np.array([0.2]), "stay": np.array([3.0])},
    ...     {"death": np.array([0.4])}])
    {'death': array([0.3]), 'stay': array([3.])}
    """
    averaged = {}
    for name in predictions[0]:
        of_task = [values[name] for values in predictions if name in values]
        averaged[name] = np.mean(of_task, axis=0) if len(of_task) > 1 else of_task[0]
    return averaged


@dataclass(frozen=True)
class Line:
    """Predictions stretched around their mean: ``target`` + ``slope`` (prediction - ``centre``).

    >>> Line(centre=3.0, slope=2.0, target=4.0).apply(np.array([3.0, 4.0]))
    array([4., 6.])
    """

    centre: float
    slope: float
    target: float

    @classmethod
    def fit(cls, y_true: np.ndarray, prediction: np.ndarray) -> Line:
        """The least squares line from predictions [n] to labels [n] whose slope is drawn to 1 by a
        normal prior; the prediction itself where there are fewer than 10 labels.

        >>> prediction = np.arange(100) / 10
        >>> Line.fit(2 + 1.5 * prediction, prediction).slope
        1.5
        >>> noise = np.random.default_rng(0).normal(scale=20, size=100)
        >>> round(Line.fit(2 + 1.5 * prediction + noise, prediction).slope, 2)
        1.02
        """
        if len(y_true) < _FEWEST_LABELS:
            return cls(0.0, 1.0, 0.0)
        centre = float(np.mean(prediction))
        target = float(np.mean(y_true))
        from_centre = prediction - centre
        spread = float(np.sum(np.square(from_centre)))
        if spread == 0:
            return cls(centre, 1.0, target)
        least_squares = float(np.sum(from_centre * (y_true - target))) / spread
        residual = y_true - target - least_squares * from_centre
        variance = float(np.mean(np.square(residual))) / spread
        weight = _SLOPE_SCALE**2 / (_SLOPE_SCALE**2 + variance)
        return cls(centre, round(1 + weight * (least_squares - 1), 4), target)

    def apply(self, prediction: np.ndarray) -> np.ndarray:
        """The stretched predictions [N]."""
        return self.target + self.slope * (prediction - self.centre)


@dataclass(frozen=True)
class Mixture:
    """Fitted on some labels: the network's ``shares`` {task: 0 to 1} and the ``lines`` {regression
    task: line} of what is mixed so.
    """

    shares: Mapping[str, float]
    lines: Mapping[str, Line] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        network: Mapping[str, np.ndarray],
        trees: Mapping[str, np.ndarray],
        rows: np.ndarray,
    ) -> Mixture:
        """Fit on the labelled ones of ``rows`` [n], on which neither member may have been
        fitted.
        """
        shares = fit_network_shares(cohort, tasks, network, trees, rows)
        mixed = mix_predictions(network, trees, shares)
        lines = {}
        for task in tasks:
            if task.problem == "regression":
                labelled = rows[np.asarray(cohort.labelled[task.name])[rows]]
                y_true = np.asarray(cohort.labels[task.name], dtype=np.float64)[labelled]
                lines[task.name] = Line.fit(y_true, np.asarray(mixed[task.name])[labelled])
        return cls(shares, lines)

    def apply(
        self, network: Mapping[str, np.ndarray], trees: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Both members' predictions {task: [N] or [N, C]} as one, of the network's tasks."""
        mixed = mix_predictions(network, trees, self.shares)
        stretched = {name: line.apply(mixed[name]) for name, line in self.lines.items()}
        return mixed | stretched

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        lines = {name: asdict(line) for name, line in self.lines.items()}
        return {"shares": dict(self.shares), "lines": lines}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Mixture:
        """What :meth:`to_dict` returned."""
        lines = {name: Line(**line) for name, line in record["lines"].items()}
        return cls(record["shares"], lines)


@dataclass(frozen=True)
class FoldMixtures:
    """``of_all`` is for new patients; where the cohort is cross-fitted, ``by_fold`` [K] are for the
    patients of each fold, each from the labels of the other folds alone. (The members' predictions
    for those other folds come of models that have learned from these patients: what is left of
    their labels is that a share or a line rests on such predictions.)
    """

    of_all: Mixture
    by_fold: tuple[Mixture, ...] = ()

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        network: Mapping[str, np.ndarray],
        trees: Mapping[str, np.ndarray],
    ) -> FoldMixtures:
        """Fit on predictions {task: [N] or [N, C]} of every row that no model made of its own
        training rows: those of the validation split or, of a cross-fitted cohort, all.
        """
        if cohort.fold is None:
            return cls(Mixture.fit(cohort, tasks, network, trees, cohort.rows(VALID)))
        everyone = np.arange(len(cohort))
        by_fold = []
        for fold in range(cohort.n_folds):
            others = np.flatnonzero(cohort.fold != fold)
            by_fold.append(Mixture.fit(cohort, tasks, network, trees, others))
        return cls(Mixture.fit(cohort, tasks, network, trees, everyone), tuple(by_fold))

    def apply_unseen(
        self,
        network: Mapping[str, np.ndarray],
        trees: Mapping[str, np.ndarray],
        fold: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Both members' predictions of every row as one, each by the mixture of its fold [N]."""
        if not self.by_fold:
            return self.of_all.apply(network, trees)
        return select_by_fold(fold, [mixture.apply(network, trees) for mixture in self.by_fold])
