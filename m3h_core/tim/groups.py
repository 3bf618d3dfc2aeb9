"""From scores to action: which tasks to train together, in a few models.

What is compared is the mean skill over the tasks (1 - loss / loss of the best constant): unlike
AUROC and R2 it means the same for every task.

Shapes: T tasks, m groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3h_core.tim.contrasts import Contrast, TaskSet
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction

_STARTS = 20


@dataclass(frozen=True)
class Gain:
    """A difference of the mean skill over tasks, on patients not seen, with its 95% interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """A JSON-ready form, null where a number is not defined."""
        return {
            name: number if math.isfinite(number) else None for name, number in vars(self).items()
        }


@dataclass(frozen=True)
class TaskGroups:
    """The number of groups that was best on the validation split, and what it gains on the test
    split.

    ``tried`` holds for each number of models its mean skill over the tasks {"models", "valid",
    "test"}; 1 is all tasks in one model. ``single`` is that of the single-task models, the other
    way to train them. ``gain`` is against these, ``gain_over_joint`` against one model of all.
    """

    groups: tuple[tuple[str, ...], ...]
    tried: tuple[dict[str, float], ...]
    single: dict[str, float]
    gain: Gain
    gain_over_joint: Gain

    @property
    def best(self) -> str:
        """What the validation split prefers of all options: "joint" (one model), "groups" or
        "single" (one a task).

        Of equals the one with fewer models.
        """
        chosen = max(scores["valid"] for scores in self.tried)
        if self.single["valid"] > chosen:
            return "single"
        return "joint" if len(self.groups) == 1 else "groups"

    @property
    def advised(self) -> bool:
        """Whether to train in these groups: the validation split prefers them to all else, and the
        test split shows that they gain, against single-task models and against one model of all.
        """
        return self.best == "groups" and self.gain.low > 0 and self.gain_over_joint.low > 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "tasks": [list(group) for group in self.groups],
            "models": len(self.groups),
            "best": self.best,
            "advised": self.advised,
            "tried": list(self.tried),
            "single": self.single,
            "gain": self.gain.to_dict(),
            "gain_over_joint": self.gain_over_joint.to_dict(),
        }


def task_groups(
    evaluator: TaskSetEvaluator, interaction: TaskInteraction, most: int = 4
) -> TaskGroups:
    """Train the tasks in 2 to ``most`` groups and keep the number of models that is best on the
    validation split.

    For each number the groups are those of the largest sum over the tasks of a task's mean TIM in
    its group, by the matrix of the validation split (as TAG groups tasks). One model of all tasks
    is always tried. Everything is trained and judged in the first fold of ``evaluator``; its
    single-task and joint models are not trained again.
    """
    # Chosen on its validation split, judged on its patients: other folds' validation splits are
    # among these.
    evaluator = evaluator.narrow(0)
    n = len(evaluator.tasks)
    everything: TaskSet = tuple(range(n))
    tried: dict[int, list[TaskSet]] = {1: [everything]}
    for count in range(2, min(most, n) + 1):
        groups = find_groups(np.nan_to_num(interaction.valid_TT), count)
        tried.setdefault(len(groups), groups)
    sets = [group for groups in tried.values() for group in groups]
    alone: list[TaskSet] = [(i,) for i in everything]
    evaluator.train([*sets, *alone])
    judged = [i for i in everything if _is_scored(evaluator, alone, i)]
    if not judged:
        raise ValueError(
            "no task has labels enough to choose groups by, in the validation split and among "
            "patients that no model saw"
        )
    by_count = {count: _score_groups(evaluator, groups, judged) for count, groups in tried.items()}
    count = max(by_count, key=lambda c: (by_count[c]["valid"], -c))
    best = _mean_skill(tried[count], judged)
    gain = measure_gain(evaluator, _subtract(best, _mean_skill(alone, judged)))
    over_joint = measure_gain(evaluator, _subtract(best, _mean_skill([everything], judged)))
    names = [evaluator.names_of(group) for group in tried[count]]
    table = tuple({"models": c, **scores} for c, scores in sorted(by_count.items()))
    return TaskGroups(
        tuple(names), table, _score_groups(evaluator, alone, judged), gain, over_joint
    )


def find_groups(gain_TT: np.ndarray, count: int, seed: int = 0) -> list[TaskSet]:
    """Up to ``count`` groups of the largest sum of mean gains, from several random starts; smallest
    tasks first.

    ``gain_TT[i, j]`` is what task i gains from j. A task alone gains nothing.

    >>> find_groups(np.array([[0, 2, -1, -1], [2, 0, -1, -1], [-1, -1, 0, 1], [-1, -1, 1, 0]]), 2)
    [(0, 1), (2, 3)]
    """
    gain_TT = gain_TT - np.diag(np.diag(gain_TT))
    rng = np.random.default_rng(seed)
    n = len(gain_TT)
    best: tuple[float, np.ndarray] | None = None
    for _ in range(_STARTS):
        group_T = _improve_groups(gain_TT, rng.integers(0, count, n), count)
        value = _sum_gains(gain_TT, group_T)
        if best is None or value > best[0] + 1e-12:
            best = (value, group_T)
    assert best is not None
    return sorted(tuple(np.flatnonzero(best[1] == g).tolist()) for g in np.unique(best[1]))


def _improve_groups(gain_TT: np.ndarray, group_T: np.ndarray, count: int) -> np.ndarray:
    """Move one task at a time to where the total grows most, until no move helps."""
    group_T = group_T.copy()
    value = _sum_gains(gain_TT, group_T)
    improved = True
    while improved:
        improved = False
        for i in range(len(group_T)):
            home = group_T[i]
            totals = []
            for g in range(count):
                group_T[i] = g
                totals.append(_sum_gains(gain_TT, group_T))
            group_T[i] = home
            if max(totals) > value + 1e-12:
                group_T[i] = int(np.argmax(totals))
                value = max(totals)
                improved = True
    return group_T


def _sum_gains(gain_TT: np.ndarray, group_T: np.ndarray) -> float:
    same_TT = group_T[:, None] == group_T[None, :]
    others_T = same_TT.sum(1) - 1
    return float(((gain_TT * same_TT).sum(1) / np.maximum(others_T, 1)).sum())


def _mean_skill(groups: Sequence[TaskSet], judged: Sequence[int]) -> Contrast:
    """The mean over tasks of each task's skill in the model of its group."""
    home = {i: group for group in groups for i in group}
    return {(home[i], i): 1 / len(judged) for i in judged}


def _subtract(a: Contrast, b: Contrast) -> Contrast:
    keys = dict.fromkeys([*a, *b])
    return {key: a.get(key, 0.0) - b.get(key, 0.0) for key in keys}


def _score_groups(
    evaluator: TaskSetEvaluator, groups: Sequence[TaskSet], judged: Sequence[int]
) -> dict[str, float]:
    contrast = [_mean_skill(groups, judged)]
    return {
        "valid": float(evaluator.valid_values(contrast)[0]),
        "test": float(evaluator.values(contrast, "skill")[0]),
    }


def _is_scored(evaluator: TaskSetEvaluator, alone: Sequence[TaskSet], task: int) -> bool:
    """Whether a task's single-task models have a score on both splits."""
    scores = _score_groups(evaluator, alone, [task])
    return bool(np.isfinite(list(scores.values())).all())


def measure_gain(evaluator: TaskSetEvaluator, contrast: Contrast) -> Gain:
    """A contrast of skill with its interval."""
    measured = evaluator.measure([contrast], [0])
    return Gain(float(measured.value[0]), float(measured.low[0]), float(measured.high[0]))
