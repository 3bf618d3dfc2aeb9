"""The matrix: how the score of one task changes when another is learned with it.

P_i(S) is the score of task i (higher is better) on patients that the model did not see, of a model
that was trained jointly on the task set S, mean over the folds. The definitions are ours, in the
sense of the paper's abstract:

- pairwise: TIM(j -> i) = P_i({i, j}) - P_i({i}); one model a pair.
- shapley: the mean of P_i(S + {i, j}) - P_i(S + {i}) over all orders in which the other tasks can
  join i. Its rows sum to P_i(all) - P_i({i}). Exact up to 6 tasks, over sampled orders beyond.

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.tim.evaluator import Progress, TaskSetEvaluator
from m3h_core.tim.matrix import TaskInteraction
from m3h_core.tim.pairwise import measure_pairwise
from m3h_core.tim.shapley import measure_shapley
from m3h_core.training.bank import OnProgress
from m3h_core.training.fitted import FittedModel

METHODS = ("pairwise", "shapley")


def task_interaction(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    method: str = "pairwise",
    config: FitConfig | None = None,
    seeds: Sequence[int] = (0,),
    resume: str | Path | None = None,
    on_progress: OnProgress | None = None,
    single_models: Sequence[FittedModel] = (),
    fdr: float = 0.05,
    workers: int = 1,
    n_components: int | None = None,
) -> TaskInteraction:
    """Measure how the tasks act on each other.

    In each fold of the cohort (see :func:`m3h_core.with_folds`; without folds on its test split)
    and for each seed: T single-task models, the joint model, and the task sets of the method, all
    through :func:`m3h_core.fit_many`, whose ``resume``, ``on_progress`` and ``workers`` these are:
    a kill loses at most the chunks that were being trained. Models among ``single_models``
    (single-task or joint) of the first fold and of the same tasks, seed and configuration are not
    trained again. With ``n_components`` all models read so many principal components of the inputs.

    Tests take into account that training itself varies: two folds or seeds tell how much. Raises
    ValueError for an unknown method or fewer than two tasks.
    """
    evaluator = TaskSetEvaluator(
        cohort,
        tasks,
        config or FitConfig(),
        seeds,
        resume,
        Progress(on_progress),
        workers,
        n_components=n_components,
    )
    evaluator.reuse(single_models)
    return measure_interaction(evaluator, method, fdr)


def measure_interaction(
    evaluator: TaskSetEvaluator, method: str = "pairwise", fdr: float = 0.05
) -> TaskInteraction:
    """:func:`task_interaction` on an evaluator, whose models then serve :func:`task_groups` and the
    like too.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if len(evaluator.tasks) < 2:
        raise ValueError(f"task interaction needs at least two tasks, got {len(evaluator.tasks)}")
    measure = measure_pairwise if method == "pairwise" else measure_shapley
    return measure(evaluator, fdr)
