"""TIM by Shapley values: the mean of P_i(S + {i, j}) - P_i(S + {i}) over orders of the tasks.

In each order the other tasks join i one by one. The rows sum to P_i(all) - P_i({i}). Exact for few
tasks, over sampled orders beyond.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from m3h_core.tim.contrasts import Contrast, Measure, TaskSet, average_contrasts
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction, assemble_interaction, list_cells, list_single_sets

# Up to so many tasks every subset is trained: 63 models a seed.
_EXACT_SHAPLEY = 6
_ORDERS = 10


def measure_shapley(evaluator: TaskSetEvaluator, fdr: float) -> TaskInteraction:
    """Exact where the tasks are few, else over sampled orders."""
    n = len(evaluator.tasks)
    cells = list_cells(n)
    draws = (
        [{cell: _exact_contrast(n, *cell) for cell in cells}]
        if n <= _EXACT_SHAPLEY
        else _sample_orders(evaluator)
    )
    sets = dict.fromkeys([*list_single_sets(n), tuple(range(n))])
    for draw in draws:
        sets |= _list_task_sets(draw)
    evaluator.train(sets)
    contrasts_of_draws = [list(map(draw.__getitem__, cells)) for draw in draws]
    contrasts = [average_contrasts(of_cell) for of_cell in zip(*contrasts_of_draws, strict=True)]
    families = [i for i, _ in cells]
    gain, change = (
        evaluator.measure(
            contrasts, families, measure, _estimate_drawing(evaluator, contrasts_of_draws, measure)
        )
        for measure in ("skill", "metric")
    )
    return assemble_interaction(evaluator, "shapley", fdr, contrasts, gain, change)


def _estimate_drawing(
    evaluator: TaskSetEvaluator, contrasts_of_draws: Sequence[list[Contrast]], measure: Measure
) -> np.ndarray | None:
    """The variance [n] that comes from the orders that were drawn; None where all were."""
    if len(contrasts_of_draws) == 1:
        return None
    by_draw = np.array([evaluator.values(of_draw, measure) for of_draw in contrasts_of_draws])
    return by_draw.var(0, ddof=1) / len(by_draw)


def _exact_contrast(n: int, i: int, j: int) -> Contrast:
    """The Shapley value of j for i: the sum over S without both of |S|! (n - 2 - |S|)! / (n - 1)!
    times the gain.
    """
    others = [k for k in range(n) if k not in (i, j)]
    contrast: dict[tuple[TaskSet, int], float] = {}
    for size in range(n - 1):
        weight = math.factorial(size) * math.factorial(n - 2 - size) / math.factorial(n - 1)
        for s in itertools.combinations(others, size):
            contrast[tuple(sorted((*s, i, j))), i] = weight
            contrast[tuple(sorted((*s, i))), i] = -weight
    return contrast


def _sample_orders(evaluator: TaskSetEvaluator) -> list[dict[tuple[int, int], Contrast]]:
    """The gain of each cell in orders of the tasks, each order averaged with its reverse."""
    rng = np.random.default_rng(evaluator.seeds[0])
    draws: list[dict[tuple[int, int], Contrast]] = []
    for _ in range(_ORDERS // 2):
        order = rng.permutation(len(evaluator.tasks)).tolist()
        forward = _list_gains(order)
        backward = _list_gains(order[::-1])
        draws.append({cell: average_contrasts([forward[cell], backward[cell]]) for cell in forward})
    return draws


def _list_gains(order: Sequence[int]) -> dict[tuple[int, int], Contrast]:
    """For each cell the gain of i when j joins it and the tasks that come before j in this
    order.
    """
    gains: dict[tuple[int, int], Contrast] = {}
    for i in order:
        joined: list[int] = [i]
        for j in order:
            if j != i:
                before = tuple(sorted(joined))
                after = tuple(sorted([*joined, j]))
                gains[i, j] = {(after, i): 1.0, (before, i): -1.0}
                joined.append(j)
    return gains


def _list_task_sets(draw: dict[tuple[int, int], Contrast]) -> dict[TaskSet, None]:
    """The task sets that a draw's contrasts read, in their order."""
    return {key[0]: None for contrast in draw.values() for key in contrast}
