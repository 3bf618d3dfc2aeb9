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

from m3h_core.tim.contrasts import Contrast
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction, to_lists
from m3h_core.tim.significance import adjust_p_values, find_survivors


@dataclass(frozen=True)
class LeftOut:
    """``matrix_TL[i, l]``: the metric of task i in the joint model, minus that in the joint model
    without task l, with its 95% interval; ``evidence_TL``: where the change of its skill survives
    the control of the false discovery rate over all cells.

    ``spearman`` and ``same_sign`` compare the changes of skill with those of pairs (NaN where they
    can't be compared); ``cells`` counts them.
    """

    tasks: tuple[str, ...]
    matrix_TL: np.ndarray
    low_TL: np.ndarray
    high_TL: np.ndarray
    gain_TL: np.ndarray
    evidence_TL: np.ndarray
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
            "gain": to_lists(self.gain_TL),
            "evidence": self.evidence_TL.tolist(),
            "spearman": self.spearman if math.isfinite(self.spearman) else None,
            "same_sign": self.same_sign if math.isfinite(self.same_sign) else None,
            "cells": self.cells,
        }


def leave_one_task_out(
    evaluator: TaskSetEvaluator, interaction: TaskInteraction, count: int = 4
) -> LeftOut:
    """Train the joint model without each of ``count`` tasks, those that matter: whose surviving
    effects on others add up to most, then those with the largest mean effect.

    ``evaluator`` is the one that ``interaction`` was measured on.
    """
    n = len(evaluator.tasks)
    everything = tuple(range(n))
    effect_TT = np.abs(np.nan_to_num(interaction.gain_TT))
    surviving_T = (effect_TT * interaction.evidence_TT).sum(0)
    order = np.lexsort((-effect_TT.mean(0), -surviving_T))
    picked = sorted(order[:count].tolist())
    without = {j: (*everything[:j], *everything[j + 1 :]) for j in picked}
    sets = [everything, *without.values()]
    # One seed: how much that says is known from smaller models.
    evaluator.train(sets, None, [0])
    cells = [(i, j) for j in picked for i in everything if i != j]
    contrasts: list[Contrast] = [{(everything, i): 1.0, (without[j], i): -1.0} for i, j in cells]
    families = [i for i, _ in cells]
    gain = evaluator.measure(contrasts, families)
    change = evaluator.measure(contrasts, families, "metric")
    at = tuple(np.transpose([(i, picked.index(j)) for i, j in cells]))

    def to_matrix(values: np.ndarray) -> np.ndarray:
        matrix = np.full((n, len(picked)), np.nan)
        matrix[at] = values
        return matrix

    both = np.array([gain.value, [interaction.gain_TT[cell] for cell in cells]])
    both = both[:, np.isfinite(both).all(0)]
    comparable = both.shape[1] > 2 and (np.ptp(both, axis=1) > 0).all()
    return LeftOut(
        tuple(evaluator.tasks[j].name for j in picked),
        to_matrix(change.value),
        to_matrix(change.low),
        to_matrix(change.high),
        to_matrix(gain.value),
        find_survivors(to_matrix(adjust_p_values(gain.p)), interaction.fdr),
        float(stats.spearmanr(*both).statistic) if comparable else math.nan,
        float((np.sign(both[0]) == np.sign(both[1])).mean()) if both.shape[1] else math.nan,
        both.shape[1],
    )
