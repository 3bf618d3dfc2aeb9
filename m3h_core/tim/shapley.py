"""TIM by Shapley values: the mean of P_i(S + {i, j}) - P_i(S + {i}) over orders of the tasks.

In each order the other tasks join i one by one. The rows sum to P_i(all) - P_i({i}). Exact for few
tasks, over sampled orders beyond.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from m3h_core.data.cohort import VALID
from m3h_core.tim.evaluator import Contrast, TaskSet, TaskSetEvaluator
from m3h_core.tim.matrix import (
    TaskInteraction,
    assemble_interaction,
    count_affordable,
    list_base_sets,
    list_cells,
)

# Up to so many tasks every subset is trained: 63 models a seed.
_EXACT_SHAPLEY = 6
_ORDERS = 10
_MOST_ORDERS = 1000


def measure_shapley(
    evaluator: TaskSetEvaluator, max_models: int | None, fdr: float
) -> TaskInteraction:
    """Exact where the bound allows it and the tasks are few, else over sampled orders."""
    n = len(evaluator.tasks)
    left = count_affordable(evaluator, max_models)
    subsets: list[TaskSet] = []
    if n <= _EXACT_SHAPLEY:
        for size in range(1, n + 1):
            subsets += itertools.combinations(range(n), size)
    cells = list_cells(n)
    beyond = len(evaluator.lacking(subsets)) - len(evaluator.lacking(list_base_sets(n)))
    if n <= _EXACT_SHAPLEY and (left is None or beyond <= left):
        draws = [{cell: _exact_contrast(n, *cell) for cell in cells}]
    else:
        draws = _sample_orders(evaluator, left)
    sets = dict.fromkeys(list_base_sets(n))
    for draw in draws:
        sets |= _list_task_sets(draw)
    evaluator.plan(len(evaluator.lacking(sets)))
    evaluator.train(sets)
    contrasts_of_draws = [list(map(draw.__getitem__, cells)) for draw in draws]
    contrasts = [_average(of_cell) for of_cell in zip(*contrasts_of_draws, strict=True)]
    sampling = None
    if len(draws) > 1:
        by_draw = np.array([evaluator.values(of_draw) for of_draw in contrasts_of_draws])
        sampling = by_draw.std(0, ddof=1) / math.sqrt(len(draws))
    measured = evaluator.measure(contrasts, [i for i, _ in cells], sampling)
    return assemble_interaction(
        evaluator, "shapley", fdr, cells, measured, evaluator.values(contrasts, VALID)
    )


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


def _sample_orders(
    evaluator: TaskSetEvaluator, left: int | None
) -> list[dict[tuple[int, int], Contrast]]:
    """The gain of each cell in orders of the tasks, each order averaged with its reverse; as many
    as fit.
    """
    n = len(evaluator.tasks)
    seeds = len(evaluator.seeds)
    rng = np.random.default_rng(evaluator.configs[0].seed)
    draws: list[dict[tuple[int, int], Contrast]] = []
    sets: dict[TaskSet, None] = {}
    ground = len(evaluator.lacking(list_base_sets(n)))
    while len(draws) < _ORDERS // 2 or left is not None:
        order = rng.permutation(n).tolist()
        forward = _list_gains(order)
        backward = _list_gains(order[::-1])
        draw = {cell: _average([forward[cell], backward[cell]]) for cell in forward}
        more = sets | _list_task_sets(draw)
        if left is not None and (
            len(evaluator.lacking([*list_base_sets(n), *more])) - ground > left
            or len(draws) == _MOST_ORDERS
        ):
            break
        sets = more
        draws.append(draw)
    if len(draws) < 2:
        raise ValueError(
            f"max_models leaves {left} models; two sampled orders of {n} tasks and their reverses "
            f"need up to {2 * n * (n - 1) * seeds}"
        )
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


def _average(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of contrasts; scores that cancel are left out."""
    total: dict[tuple[TaskSet, int], float] = {}
    for contrast in contrasts:
        for key, weight in contrast.items():
            total[key] = total.get(key, 0.0) + weight / len(contrasts)
    return {key: weight for key, weight in total.items() if abs(weight) > 1e-12}
