"""TIM by pairs: TIM(j -> i) = P_i({i, j}) - P_i({i}).

Shapes: T tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from m3h_core.config import FitConfig
from m3h_core.tim.contrasts import Contrast, TaskSet
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction, assemble_interaction, list_cells, list_single_sets

# What a small network reads of the inputs: on real series as good as all 1,500 of them, for a third
# of the time.
N_COMPONENTS = 256
# Of how many effects, a hundred tested, the first survives: what decides how large it must be.
_SURVIVING = 0.01
# In standard errors: by how much an effect may turn out larger than it was seen.
_MARGIN = 0.5


def shrink_network(config: FitConfig) -> FitConfig:
    """The same training of a small network: where the network itself is too dear for every pair.

    It learns in larger steps and is stopped sooner, which costs it nothing.

    >>> small = shrink_network(FitConfig(seed=3))
    >>> small.hidden, small.normalization
    ((32,), 'stable')
    """
    # A temperature that is learned varies from seed to seed of a small network, and hides effects.
    return replace(
        config, hidden=(32,), members=1, learning_rate=1e-2, patience=4, normalization="stable"
    )


def pair_contrast(i: int, j: int) -> Contrast:
    """TIM(j -> i) = P_i({i, j}) - P_i({i})."""
    return {((min(i, j), max(i, j)), i): 1.0, ((i,), i): -1.0}


def measure_pairwise(evaluator: TaskSetEvaluator, fdr: float) -> TaskInteraction:
    """All pairs in the first fold with one seed; those that may survive in all folds; and of these
    those that still may with all seeds.

    A pair that is stopped counts as tested with a p value of 1. That is never less than what it
    would have had, so the false discovery rate is kept.
    """
    n = len(evaluator.tasks)
    pairs: list[TaskSet] = list(itertools.combinations(range(n), 2))
    # Each single-task model is in many differences: what one seed is off would be in all of them.
    evaluator.train(list_single_sets(n))
    evaluator.train(pairs, [0], [0])
    if len(evaluator.folds) > 1:
        pairs = _select_promising(evaluator, pairs, fdr)
        evaluator.train(pairs, None, [0])
    if len(evaluator.seeds) > 1:
        pairs = _select_promising(evaluator, pairs, fdr)
        evaluator.train(pairs)
    cells = list_cells(n)
    contrasts = [pair_contrast(i, j) for i, j in cells]
    families = [i for i, _ in cells]
    gain = evaluator.measure(contrasts, families)
    change = evaluator.measure(contrasts, families, "metric")
    is_stopped = np.array([not evaluator.is_trained((min(cell), max(cell))) for cell in cells])
    gain = replace(gain, p=np.where(is_stopped & np.isfinite(gain.value), 1.0, gain.p))
    return assemble_interaction(evaluator, "pairwise", fdr, contrasts, gain, change)


def _select_promising(
    evaluator: TaskSetEvaluator, pairs: Sequence[TaskSet], fdr: float
) -> list[TaskSet]:
    """The pairs of which an effect would survive with all folds and seeds if it were as large as
    seen so far plus half a standard error.
    """
    n_cells = 2 * math.comb(len(evaluator.tasks), 2)
    needed = stats.norm.isf(fdr * max(1, _SURVIVING * n_cells) / n_cells / 2)
    cells = [cell for i, j in pairs for cell in ((i, j), (j, i))]
    contrasts = [pair_contrast(i, j) for i, j in cells]
    gain = evaluator.measure(contrasts, [i for i, _ in cells])
    largest = np.abs(gain.value) + _MARGIN * gain.error
    may_survive = largest >= needed * evaluator.project_errors(contrasts)
    kept = {(min(cell), max(cell)) for cell, may in zip(cells, may_survive, strict=True) if may}
    return [pair for pair in pairs if pair in kept]
