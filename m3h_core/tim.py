"""Task interaction (TIM): how the metric of one task changes when another is learned with it.

TIM explains the output space as feature importance explains the input space. The paper names the score; this
definition is ours. P_i(S) is the test metric of task i (higher is better) of a model trained jointly on the tasks S:

- pairwise: TIM(j -> i) = P_i({i, j}) - P_i({i})

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.bank import fit_many
from m3h_core.cohort import TEST, Cohort
from m3h_core.metrics import Resamples, interval, primary_metric, primary_replicates
from m3h_core.model import FitConfig
from m3h_core.tasks import TaskSpec
from m3h_core.training import FittedModel

METHODS = ("pairwise",)


@dataclass(frozen=True)
class TaskInteraction:
    """The interaction of T tasks; ``matrix_TT[i, j]`` is the change of task i's metric when j is learned too.

    Absolute changes with 95% intervals (seeds and subjects resampled); the diagonal is 0. ``single_T`` and ``joint_T``
    are the metrics of each task learned alone and with all others. ``source_TT`` says "retrained" or "estimated".
    """

    tasks: tuple[str, ...]
    method: str
    matrix_TT: np.ndarray
    low_TT: np.ndarray
    high_TT: np.ndarray
    single_T: np.ndarray
    joint_T: np.ndarray
    source_TT: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: lists, null where a metric is not defined."""
        arrays = {
            "matrix": self.matrix_TT, "low": self.low_TT, "high": self.high_TT,
            "single": self.single_T, "joint": self.joint_T,
        }  # fmt: skip
        return {
            "tasks": list(self.tasks),
            "method": self.method,
            **{name: _listed(values) for name, values in arrays.items()},
            "source": self.source_TT.tolist(),
        }


def task_interaction(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    method: str = "pairwise",
    config: FitConfig | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    max_models: int | None = None,
    resume: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    single_models: Sequence[FittedModel] = (),
    n_bootstrap: int = 200,
) -> TaskInteraction:
    """Measure how the tasks act on each other, by training models on task sets.

    For each seed: T single-task models (those among ``single_models`` with the same tasks and configuration are not
    trained again), T (T - 1) / 2 pair models and the joint model, all through :func:`fit_many`, whose ``resume`` and
    ``on_progress`` these are.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if max_models is not None:
        raise NotImplementedError("max_models")
    config, n = config or FitConfig(), len(tasks)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    sets = [(i,) for i in range(n)] + pairs + ([tuple(range(n))] if n > 2 else [])
    jobs = [([tasks[i] for i in members], replace(config, seed=seed)) for seed in seeds for members in sets]
    known = {(model.tasks, model.config): model for model in single_models}
    have = {at: known[key] for at, (t, c) in enumerate(jobs) if (key := (tuple(t), c)) in known}
    missing = [at for at in range(len(jobs)) if at not in have]
    trained = fit_many(cohort, [jobs[at] for at in missing], on_progress=on_progress, resume=resume)
    models = have | dict(zip(missing, trained, strict=True))

    draws = Resamples(cohort, TEST, n_bootstrap, config.seed)
    value = np.full((len(seeds), len(sets), n), np.nan)
    replicates = np.full((len(seeds), len(sets), n, n_bootstrap), np.nan, dtype=np.float32)
    for at in range(len(jobs)):
        s, which = divmod(at, len(sets))
        predicted = models[at].predict(cohort)
        for i in sets[which]:
            value[s, which, i] = primary_metric(cohort, tasks[i], predicted[tasks[i].name])
            replicates[s, which, i] = primary_replicates(cohort, tasks[i], predicted[tasks[i].name], draws)

    # Seeds are resampled along with subjects: both are sources of doubt about a cell.
    chosen = np.random.default_rng(config.seed).integers(0, len(seeds), (len(seeds), n_bootstrap))
    matrix, low, high = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for which, (i, j) in enumerate(pairs, start=n):
        for a, b in ((i, j), (j, i)):
            matrix[a, b] = (value[:, which, a] - value[:, a, a]).mean()
            difference = replicates[:, which, a] - replicates[:, a, a]
            low[a, b], high[a, b] = interval(difference[chosen, np.arange(n_bootstrap)].mean(0))
    single = value[:, np.arange(n), np.arange(n)].mean(0)
    source = np.full((n, n), "retrained")
    return TaskInteraction(
        tuple(task.name for task in tasks), method, matrix, low, high, single, value[:, -1].mean(0), source
    )


def _listed(values: np.ndarray) -> Any:
    return np.where(np.isfinite(values), values, None).tolist()
