"""How often sets and intervals held the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3h_core.data.tasks import TaskSpec
from m3h_core.grouped import share_interval


@dataclass(frozen=True)
class ObservedCoverage:
    """How often sets or intervals held the truth: the share of ``n`` labels, with a 95% interval.

    ``size`` is the mean number of classes of a set, or the mean width of an interval in the task's
    unit. All are NaN where there is no label.
    """

    n: int
    coverage: float
    low: float
    high: float
    size: float

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        target: np.ndarray,
        predicted: np.ndarray,
        subjects: Sequence | np.ndarray | None = None,
    ) -> ObservedCoverage:
        """Judge what was said of n labels: sets bool [n, C], or intervals [n, 2] for regression.

        ``subjects`` [n]: whose rows they are. Rows of one subject tell less than those of several,
        and the interval is wider for it; without it each row stands alone.

        >>> intervals = np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
        >>> task = TaskSpec("stay", "regression")
        >>> coverage = ObservedCoverage.of(task, np.full(4, 2.0), intervals)
        >>> coverage.coverage, round(coverage.low, 2), coverage.size
        (0.75, 0.19, 4.0)
        """
        if not len(target):
            return cls(0, *[math.nan] * 4)
        if task.problem == "regression":
            inside = (predicted[:, 0] <= target) & (target <= predicted[:, 1])
            sizes = predicted[:, 1] - predicted[:, 0]
        else:
            inside = predicted[np.arange(len(target)), target.astype(int)]
            sizes = predicted.sum(1)
        whose = np.arange(len(target)) if subjects is None else subjects
        low, high = share_interval(inside, whose)
        return cls(len(target), float(inside.mean()), low, high, float(sizes.mean()))
