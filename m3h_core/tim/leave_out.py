"""What pair models say of the joint model: the effect of leaving a task out of it.

In the joint model a task's attention is spread over many; a pair is another regime. Shapes: T
tasks, L left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from m3h_core.tim.evaluator import Contrast, TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction, to_lists


@dataclass(frozen=True)
class LeftOut:
    """``matrix_TL[i, l]``: the metric of task i in the joint model, minus that in the joint model
    without task l.

    ``spearman`` and ``same_sign`` compare these cells with the matrix of pairs (NaN where they
    can't be compared); ``cells`` counts them.
    """

    tasks: tuple[str, ...]
    matrix_TL: np.ndarray
    low_TL: np.ndarray
    high_TL: np.ndarray
    spearman: float
    same_sign: float
    cells: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, null where a number is not defined."""
        return {
            "tasks": list(self.tasks),
            "matrix": to_lists(self.matrix_TL),
            "low": to_lists(self.low_TL),
            "high": to_lists(self.high_TL),
            "spearman": self.spearman if math.isfinite(self.spearman) else None,
            "same_sign": self.same_sign if math.isfinite(self.same_sign) else None,
            "cells": self.cells,
        }


def leave_one_task_out(
    evaluator: TaskSetEvaluator, interaction: TaskInteraction, count: int = 4
) -> LeftOut:
    """Train the joint model without each of ``count`` tasks, from those that help others most to
    those that do least.

    ``evaluator`` is the one that ``interaction`` was measured on. Cells are compared where the pair
    was retrained.
    """
    n = len(evaluator.tasks)
    everything = tuple(range(n))
    by_help = np.argsort(-np.nan_to_num(interaction.matrix_TT).mean(0), kind="stable")
    picked = sorted({int(by_help[round(at)]) for at in np.linspace(0, n - 1, min(count, n))})
    without = {j: (*everything[:j], *everything[j + 1 :]) for j in picked}
    evaluator.plan(len(evaluator.lacking([everything, *without.values()])))
    evaluator.train([everything, *without.values()])
    cells = [(i, j) for j in picked for i in everything if i != j]
    contrasts: list[Contrast] = [{(everything, i): 1.0, (without[j], i): -1.0} for i, j in cells]
    measured = evaluator.measure(contrasts, [i for i, _ in cells])
    shape = (n, len(picked))
    matrix = np.full(shape, np.nan)
    low = np.full(shape, np.nan)
    high = np.full(shape, np.nan)
    at = tuple(np.transpose([(i, picked.index(j)) for i, j in cells]))
    matrix[at] = measured.value
    low[at] = measured.low
    high[at] = measured.high
    is_retrained_TT = interaction.source_TT == "retrained"
    pair_TT = np.where(is_retrained_TT, interaction.matrix_TT, np.nan)
    pairs = [pair_TT[cell] for cell in cells]
    both = np.array([measured.value, pairs])
    both = both[:, np.isfinite(both).all(0)]
    comparable = both.shape[1] > 2 and (np.ptp(both, axis=1) > 0).all()
    return LeftOut(
        tuple(evaluator.tasks[j].name for j in picked),
        matrix,
        low,
        high,
        float(stats.spearmanr(*both).statistic) if comparable else math.nan,
        float((np.sign(both[0]) == np.sign(both[1])).mean()) if both.shape[1] else math.nan,
        both.shape[1],
    )
