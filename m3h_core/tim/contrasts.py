"""Contrasts: sums of scores of task sets, such as P_i({i, j}) - P_i({i})."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

TaskSet = tuple[int, ...]
# Weights by task set and the task that is scored in its model.
Contrast = Mapping[tuple[TaskSet, int], float]
# By what a task is scored: its primary metric, or its skill (see subject_scores.py).
Measure = Literal["metric", "skill"]


def average_contrasts(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of contrasts; scores that cancel are left out.

    >>> average_contrasts([{((0,), 0): 1.0}, {((0,), 0): -1.0, ((1,), 1): 1.0}])
    {((1,), 1): 0.5}
    """
    total: dict[tuple[TaskSet, int], float] = {}
    for contrast in contrasts:
        for key, weight in contrast.items():
            total[key] = total.get(key, 0.0) + weight / len(contrasts)
    return {key: weight for key, weight in total.items() if abs(weight) > 1e-12}
