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

from m3h_core.tim.bench import Bench, Contrast
from m3h_core.tim.interaction import TaskInteraction, listed


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
            "matrix": listed(self.matrix_TL),
            "low": listed(self.low_TL),
            "high": listed(self.high_TL),
            "spearman": self.spearman if math.isfinite(self.spearman) else None,
            "same_sign": self.same_sign if math.isfinite(self.same_sign) else None,
            "cells": self.cells,
        }


def leave_one_task_out(bench: Bench, interaction: TaskInteraction, count: int = 4) -> LeftOut:
    """Train the joint model without each of ``count`` tasks, from those that help others most to
    those that do least.

    ``bench`` is the one that ``interaction`` was measured on. Cells are compared where the pair was
    retrained.
    """
    n = len(bench.tasks)
    everything = tuple(range(n))
    by_help = np.argsort(-np.nan_to_num(interaction.matrix_TT).mean(0), kind="stable")
    picked = sorted({int(by_help[round(at)]) for at in np.linspace(0, n - 1, min(count, n))})
    without = {j: tuple(i for i in everything if i != j) for j in picked}
    bench.plan(len(bench.lacking([everything, *without.values()])))
    bench.train([everything, *without.values()])
    cells = [(i, j) for j in picked for i in everything if i != j]
    contrasts: list[Contrast] = [{(everything, i): 1.0, (without[j], i): -1.0} for i, j in cells]
    measured = bench.measure(contrasts, [i for i, _ in cells])
    shape = (n, len(picked))
    matrix = np.full(shape, np.nan)
    low = np.full(shape, np.nan)
    high = np.full(shape, np.nan)
    at = tuple(np.transpose([(i, picked.index(j)) for i, j in cells]))
    matrix[at] = measured.value
    low[at] = measured.low
    high[at] = measured.high
    pairs = [
        interaction.matrix_TT[c] if interaction.source_TT[c] == "retrained" else math.nan
        for c in cells
    ]
    both = np.array([measured.value, pairs])
    both = both[:, np.isfinite(both).all(0)]
    comparable = both.shape[1] > 2 and (np.ptp(both, axis=1) > 0).all()
    return LeftOut(
        tuple(bench.tasks[j].name for j in picked),
        matrix,
        low,
        high,
        float(stats.spearmanr(*both).statistic) if comparable else math.nan,
        float((np.sign(both[0]) == np.sign(both[1])).mean()) if both.shape[1] else math.nan,
        both.shape[1],
    )
