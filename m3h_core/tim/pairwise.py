"""TIM by pairs: TIM(j -> i) = P_i({i, j}) - P_i({i}).

Where not all pairs can be trained, the other cells are estimated.

Shapes: T tasks, m retrained cells, F numbers that describe a cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from m3h_core.config import FitConfig
from m3h_core.data.cohort import VALID
from m3h_core.ensemble.ridge import fit_ridge
from m3h_core.tim.evaluator import Contrast, TaskSet, TaskSetEvaluator
from m3h_core.tim.matrix import (
    TaskInteraction,
    assemble_interaction,
    count_affordable,
    list_base_sets,
    list_cells,
)

_FOLDS = 5


def shrink_network(config: FitConfig) -> FitConfig:
    """The same training of a small network: where the network itself is too dear for every pair.

    >>> shrink_network(FitConfig(seed=3)).hidden
    (32,)
    """
    return replace(config, hidden=(32,), members=1)


def pair_contrast(i: int, j: int) -> Contrast:
    """TIM(j -> i) = P_i({i, j}) - P_i({i})."""
    return {((min(i, j), max(i, j)), i): 1.0, ((i,), i): -1.0}


def measure_pairwise(
    evaluator: TaskSetEvaluator, max_models: int | None, fdr: float
) -> TaskInteraction:
    """All pairs, or those that tell most within the bound and an estimate of the others."""
    n = len(evaluator.tasks)
    seeds = len(evaluator.seeds)
    pairs: list[tuple[int, int]] = list(itertools.combinations(range(n), 2))
    left = count_affordable(evaluator, max_models)
    if left is None or left >= len(pairs) * seeds:
        evaluator.plan(len(evaluator.lacking([*list_base_sets(n), *pairs])))
        evaluator.train(list_base_sets(n))
        evaluator.train(pairs)
        return _build_interaction(evaluator, "pairwise", fdr, pairs, None)
    budget = left // seeds
    evaluator.plan(len(evaluator.lacking(list_base_sets(n))) + budget * seeds)
    evaluator.train(list_base_sets(n))
    clue_TT = _measure_small_network(evaluator, budget * seeds)
    drawn_TT = np.random.default_rng(evaluator.configs[0].seed).normal(size=(n, n))
    chosen = _select_pairs(drawn_TT if clue_TT is None else clue_TT, budget)
    evaluator.train(chosen)
    # Cells with nothing that tells them apart are estimated from their row and column alone.
    estimates_TT = np.zeros((n, n)) if clue_TT is None else clue_TT
    return _build_interaction(evaluator, "pairwise", fdr, chosen, estimates_TT)


def _measure_small_network(evaluator: TaskSetEvaluator, models: int) -> np.ndarray | None:
    """The matrix by pair models of a small network, where that costs less than half of what so many
    models do.
    """
    config = shrink_network(evaluator.configs[0])
    n = len(evaluator.tasks)
    sets: list[TaskSet] = [*((i,) for i in range(n)), *itertools.combinations(range(n), 2)]
    # Nearly all weights lie in the first layer, which members share.
    if len(sets) * sum(config.hidden) / sum(evaluator.configs[0].hidden or (1,)) > models / 2:
        return None
    small = evaluator.for_network(config, evaluator.seeds[:1])
    small.plan(len(sets))
    small.train(sets)
    matrix = np.zeros((n, n))
    matrix[tuple(np.transpose(list_cells(n)))] = np.nan_to_num(
        small.values([pair_contrast(*c) for c in list_cells(n)])
    )
    return matrix


def _select_pairs(clue_TT: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Pairs in rounds: in each, every task that has none yet has the one left that stands out most
    from its row.
    """
    others = np.where(np.eye(len(clue_TT), dtype=bool), np.nan, np.nan_to_num(clue_TT))
    apart = np.abs(others - np.nanmean(others, axis=1, keepdims=True))
    size = np.where(np.eye(len(clue_TT), dtype=bool), -1, np.maximum(apart, apart.T))
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < count:
        reached: set[int] = set()
        for i in np.argsort(-size.max(1), kind="stable").tolist():
            j = int(size[i].argmax())
            if size[i, j] >= 0 and i not in reached and len(chosen) < count:
                chosen[min(i, j), max(i, j)] = None
                size[i, j] = size[j, i] = -1
                reached |= {i, j}
    return list(chosen)


def _build_interaction(
    evaluator: TaskSetEvaluator,
    method: str,
    fdr: float,
    pairs: Sequence[tuple[int, int]],
    clue_TT: np.ndarray | None,
) -> TaskInteraction:
    cells = [cell for i, j in pairs for cell in ((i, j), (j, i))]
    contrasts = [pair_contrast(i, j) for i, j in cells]
    measured = evaluator.measure(contrasts, [i for i, _ in cells])
    interaction = assemble_interaction(
        evaluator, method, fdr, cells, measured, evaluator.values(contrasts, VALID)
    )
    return interaction if clue_TT is None else _fill_estimates(interaction, cells, clue_TT)


def _fill_estimates(
    interaction: TaskInteraction, retrained: Sequence[tuple[int, int]], clue_TT: np.ndarray
) -> TaskInteraction:
    """Fill the cells that were not retrained: a ridge regression on the clue, the row and the
    column.

    A row's cells share the luck of its single-task model and how much the task needs help; left-out
    cells say how much of this to believe.
    """
    n = len(interaction.tasks)
    unknown = [cell for cell in list_cells(n) if interaction.source_TT[cell] == "estimated"]
    fitted = [
        cell
        for cell in retrained
        if np.isfinite(interaction.matrix_TT[cell]) and np.isfinite(interaction.valid_TT[cell])
    ]
    clue_TT = np.nan_to_num(clue_TT / (clue_TT.std() or 1))

    def describe(cells: Sequence[tuple[int, int]]) -> np.ndarray:
        rows, columns = np.transpose(cells)
        return np.hstack([clue_TT[rows, columns, None], np.eye(n)[rows], np.eye(n)[columns]])

    matrix, low, high, valid = (
        part.copy()
        for part in (
            interaction.matrix_TT,
            interaction.low_TT,
            interaction.high_TT,
            interaction.valid_TT,
        )
    )
    at = tuple(np.transpose(unknown))
    if len(fitted) < 3:
        matrix[at] = low[at] = high[at] = valid[at] = np.nan
        return replace(interaction, matrix_TT=matrix, low_TT=low, high_TT=high, valid_TT=valid)
    targets = np.array(
        [[interaction.matrix_TT[cell], interaction.valid_TT[cell]] for cell in fitted]
    )
    ridge = fit_ridge(describe(fitted), targets)
    estimate = ridge(describe(unknown))
    doubt = 1.96 * float(np.sqrt(np.mean((targets - ridge.left_out_mO)[:, 0] ** 2)))
    matrix[at], valid[at] = estimate.T
    low[at] = matrix[at] - doubt
    high[at] = matrix[at] + doubt
    # Where a task has no metric, neither has any cell of its row.
    lost = ~np.isfinite(interaction.single_T)
    for part in (matrix, low, high, valid):
        part[lost] = np.nan
    agreement = _measure_agreement(describe(fitted), targets[:, :1])
    return replace(
        interaction, matrix_TT=matrix, low_TT=low, high_TT=high, valid_TT=valid, agreement=agreement
    )


def _measure_agreement(described_mF: np.ndarray, targets_m1: np.ndarray) -> float:
    """Mean rank correlation of cells with their estimates within folds that these were not fitted
    on.

    Within, because an estimate that knows nothing is the mean of the other folds, which is low
    where a fold is high.
    """
    fold_m = np.random.default_rng(0).permutation(len(targets_m1)) % _FOLDS
    if len(targets_m1) < 4 * _FOLDS:
        return math.nan
    correlations = []
    for fold in range(_FOLDS):
        out = fold_m == fold
        estimate = fit_ridge(described_mF[~out], targets_m1[~out])(described_mF[out])[:, 0]
        varies = np.ptp(estimate) > 1e-12 and np.ptp(targets_m1[out]) > 0
        correlations.append(
            float(stats.spearmanr(estimate, targets_m1[out, 0]).statistic) if varies else 0.0
        )
    return float(np.mean(correlations))
