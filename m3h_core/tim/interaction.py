"""The matrix: how the metric of one task changes when another is learned with it.

P_i(S) is the test metric of task i (higher is better) of a model trained jointly on the task set S.
The definitions are ours, in the sense of the paper's abstract:

- pairwise: TIM(j -> i) = P_i({i, j}) - P_i({i}); one model a pair.
- shapley: the mean of P_i(S + {i, j}) - P_i(S + {i}) over all orders in which the other tasks can
  join i. Its rows sum to P_i(all) - P_i({i}). Exact up to 6 tasks, over sampled orders beyond.
- affinity: a hint of the joint model's gradients, as a share of the loss (see affinity.py).

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.tim.affinity import measure_affinity
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction
from m3h_core.tim.pairwise import measure_pairwise
from m3h_core.tim.shapley import measure_shapley
from m3h_core.training.bank import OnProgress
from m3h_core.training.fitted import FittedModel

UNITS = {
    "pairwise": "metric",
    "shapley": "metric",
    "affinity": "share of loss",
}
METHODS = tuple(UNITS)


def task_interaction(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    method: str = "pairwise",
    config: FitConfig | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    max_models: int | None = None,
    resume: str | Path | None = None,
    on_progress: OnProgress | None = None,
    single_models: Sequence[FittedModel] = (),
    n_bootstrap: int = 200,
    fdr: float = 0.05,
    workers: int = 1,
) -> TaskInteraction:
    """Measure how the tasks act on each other.

    For each seed T single-task models, the joint model, and the task sets of the method, all
    through :func:`m3h_core.fit_many`, whose ``resume``, ``on_progress`` and ``workers`` these are:
    a kill loses at most the chunks that were being trained. Models among ``single_models``
    (single-task or joint) of the same tasks, seed and configuration are not trained again; affinity
    takes only these for ``single_T``.

    ``max_models`` bounds the models that are trained. Pairwise then retrains some pairs of every
    task: those that stand out with a small network, where that is far cheaper, else a random
    choice. It estimates the other cells from the small network and from the retrained cells of the
    same row and column, with an interval as wide as left-out cells stray. Shapley
    samples as many orders of the tasks as fit. Raises ValueError for an unknown method, fewer than
    two tasks, or a bound that the single-task and joint models exceed already.
    """
    evaluator = TaskSetEvaluator(
        cohort, tasks, config or FitConfig(), seeds, n_bootstrap, resume, on_progress, workers
    )
    evaluator.reuse(single_models)
    return measure_interaction(evaluator, method, max_models, fdr)


def measure_interaction(
    evaluator: TaskSetEvaluator,
    method: str = "pairwise",
    max_models: int | None = None,
    fdr: float = 0.05,
) -> TaskInteraction:
    """:func:`task_interaction` on an evaluator, whose models then serve :func:`task_groups` and the
    like too.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if len(evaluator.tasks) < 2:
        raise ValueError(f"task interaction needs at least two tasks, got {len(evaluator.tasks)}")
    if method == "pairwise":
        return measure_pairwise(evaluator, max_models, fdr)
    if method == "shapley":
        return measure_shapley(evaluator, max_models, fdr)
    return _measure_by_affinity(evaluator, fdr)


def _measure_by_affinity(evaluator: TaskSetEvaluator, fdr: float) -> TaskInteraction:
    """A matrix from the joint model's training, with the spread over seeds as its interval."""
    n = len(evaluator.tasks)
    n_seeds = len(evaluator.seeds)
    every = tuple(range(n))
    evaluator.plan(n_seeds)
    results = [
        measure_affinity(evaluator.bank.prepared(config), config, evaluator.resume)
        for config in evaluator.configs
    ]
    evaluator.reuse([model for _, model in results])
    by_seed = np.stack([matrix for matrix, _ in results])
    matrix = by_seed.mean(0)
    reach = np.full((n, n), np.nan)
    if n_seeds > 1:
        reach = stats.t.ppf(0.975, n_seeds - 1) * by_seed.std(0, ddof=1) / math.sqrt(n_seeds)
    for part in (matrix, reach):
        np.fill_diagonal(part, 0)
    source = np.full((n, n), "estimated")
    np.fill_diagonal(source, "retrained")
    single = np.full(n, np.nan)
    for i in every:
        if evaluator.is_trained((i,)):
            single[i] = evaluator.values([{((i,), i): 1.0}])[0]
    joint = evaluator.values([{(every, i): 1.0} for i in every])
    names = tuple(task.name for task in evaluator.tasks)
    nothing = np.full((n, n), np.nan)
    return TaskInteraction(
        names,
        "affinity",
        matrix,
        matrix - reach,
        matrix + reach,
        single,
        joint,
        source,
        nothing,
        matrix,
        fdr,
        n_seeds,
        evaluator.trained,
        unit=UNITS["affinity"],
    )
