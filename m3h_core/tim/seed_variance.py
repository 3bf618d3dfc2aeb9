"""By how much a model's score varies from seed to seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from m3h_core.tim.contrasts import TaskSet

# What is known of a task from all its task sets counts so many degrees of freedom for each of them:
# a variance of three or six numbers alone would be too small too often.
_PRIOR_FREEDOM = 3


class SeedVariance:
    """Variances of a score over seeds, by task set and task: those of the set's own repetitions,
    moderated by the mean over all sets with the task.
    """

    def __init__(self) -> None:
        self._squares: dict[tuple[TaskSet, int], float] = defaultdict(float)
        self._freedom: dict[tuple[TaskSet, int], int] = defaultdict(int)
        self._all_squares: dict[int, float] = defaultdict(float)
        self._all_freedom: dict[int, int] = defaultdict(int)

    def add(self, members: TaskSet, task: int, scores: Sequence[float]) -> None:
        """Take up the scores of one task set in one fold, a seed each."""
        if len(scores) < 2 or not np.isfinite(scores).all():
            return
        squares = float(np.var(scores)) * len(scores)
        self._squares[members, task] += squares
        self._freedom[members, task] += len(scores) - 1
        self._all_squares[task] += squares
        self._all_freedom[task] += len(scores) - 1

    def variance(self, members: TaskSet, task: int) -> float:
        """The variance of a single training's score, 0 where nothing was trained twice."""
        if not self._all_freedom[task]:
            return 0.0
        pooled = self._all_squares[task] / self._all_freedom[task]
        prior = min(_PRIOR_FREEDOM, self._all_freedom[task])
        own = self._squares[members, task]
        return (prior * pooled + own) / (prior + self._freedom[members, task])

    def freedom(self, members: TaskSet, task: int) -> int:
        """The degrees of freedom of :meth:`variance`."""
        prior = min(_PRIOR_FREEDOM, self._all_freedom[task])
        return prior + self._freedom[members, task] if prior else 0
