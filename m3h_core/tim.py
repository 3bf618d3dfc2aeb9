"""Task interaction (TIM): how the metric of one task changes when another is learned with it.

TIM explains the output space as feature importance explains the input space. The paper names the score; this
definition is ours. P_i(S) is the test metric of task i (higher is better) of a model trained jointly on the tasks S:

- pairwise: TIM(j -> i) = P_i({i, j}) - P_i({i})

Shapes: T tasks, R resamples; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.bank import fit_many
from m3h_core.cohort import TEST, TRAIN, Cohort
from m3h_core.metrics import Resamples, interval, primary_metric, primary_replicates
from m3h_core.model import FitConfig
from m3h_core.tasks import TaskSpec
from m3h_core.training import FittedModel

METHODS = ("pairwise",)

TaskSet = tuple[int, ...]


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
        return {
            "tasks": list(self.tasks),
            "method": self.method,
            "matrix": _listed(self.matrix_TT),
            "low": _listed(self.low_TT),
            "high": _listed(self.high_TT),
            "single": _listed(self.single_T),
            "joint": _listed(self.joint_T),
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

    For each seed: T single-task models (those among ``single_models`` of the same task and configuration are not
    trained again), the joint model, and T (T - 1) / 2 pair models, all through :func:`fit_many`, whose ``resume`` and
    ``on_progress`` these are. With ``max_models``, pairs are retrained in the order of the joint model's attention
    between them until so many models are trained, and the other cells are estimated: the line from attention to change
    that fits the retrained cells best, with an interval as wide as those stray from it.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    config, n = config or FitConfig(), len(tasks)
    every = tuple(range(n))
    pairs: list[TaskSet] = list(combinations(range(n), 2))
    ground: list[TaskSet] = list(dict.fromkeys([*((i,) for i in range(n)), every]))
    budget = len(pairs) if max_models is None else max_models // len(seeds) - len(ground)
    if budget < 0:
        raise ValueError(
            f"max_models is {max_models}, but {len(ground) * len(seeds)} single-task and joint models come first"
        )
    retrained = [pair for pair in pairs if pair not in ground]
    total = len(seeds) * (len(ground) + min(budget, len(retrained)))
    bench = _Bench(cohort, tasks, config, seeds, n_bootstrap, resume, on_progress, total)
    bench.reuse(single_models)
    bench.train(ground)
    attention_TT = bench.attention(every)
    if budget < len(retrained):
        retrained.sort(key=lambda pair: -(attention_TT[pair] + attention_TT[pair[::-1]]))
        retrained = retrained[:budget]
    bench.train(retrained)

    matrix, low, high = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    source = np.full((n, n), "retrained", dtype="<U9")
    known = {pair for pair in pairs if pair in bench.value}
    for pair in known:
        for i, j in (pair, pair[::-1]):
            matrix[i, j] = (bench.value[pair][:, i] - bench.value[(i,)][:, i]).mean()
            low[i, j], high[i, j] = bench.difference_interval(pair, (i,), i)
    missing = [cell for pair in pairs if pair not in known for cell in (pair, pair[::-1])]
    if missing:
        cells = [cell for pair in known for cell in (pair, pair[::-1]) if np.isfinite(matrix[cell])]
        estimate, doubt = _line([attention_TT[cell] for cell in cells], [matrix[cell] for cell in cells])
        for cell in missing:
            matrix[cell] = estimate(attention_TT[cell])
            low[cell], high[cell] = matrix[cell] - doubt, matrix[cell] + doubt
            source[cell] = "estimated"
    single = np.array([bench.value[(i,)][:, i].mean() for i in range(n)])
    names = tuple(task.name for task in tasks)
    return TaskInteraction(names, method, matrix, low, high, single, bench.value[every].mean(0), source)


class _Bench:
    """Trains task sets for every seed and keeps what they score: ``value[set]`` [seeds, T], NaN where not learned."""

    def __init__(
        self,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        config: FitConfig,
        seeds: Sequence[int],
        n_bootstrap: int,
        resume: str | Path | None,
        on_progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self.cohort, self.tasks, self.seeds, self.resume = cohort, tasks, seeds, resume
        self.configs = [replace(config, seed=seed) for seed in seeds]
        self.on_progress, self.done, self.total = on_progress, 0, total
        self.draws = Resamples(cohort, TEST, n_bootstrap, config.seed)
        # Seeds are resampled along with subjects: both are sources of doubt about a cell.
        self.chosen = np.random.default_rng(config.seed).integers(0, len(seeds), (len(seeds), n_bootstrap))
        self.models: dict[tuple[TaskSet, int], FittedModel] = {}
        self.value: dict[TaskSet, np.ndarray] = {}
        self.replicates: dict[TaskSet, np.ndarray] = {}

    def reuse(self, models: Iterable[FittedModel]) -> None:
        """Take models that were trained before, where task and configuration are those of a single-task model."""
        for model in models:
            for s, config in enumerate(self.configs):
                if len(model.tasks) == 1 and model.tasks[0] in self.tasks and model.config == config:
                    self.models[(self.tasks.index(model.tasks[0]),), s] = model

    def train(self, sets: Sequence[TaskSet]) -> None:
        """Train these sets for every seed and score them on the test split."""
        wanted = [(members, s) for s in range(len(self.seeds)) for members in sets]
        missing = [key for key in wanted if key not in self.models]
        self.done += len(wanted) - len(missing)
        before = self.done

        def progress(done: int, _: int) -> None:
            self.done = before + done
            if self.on_progress:
                self.on_progress(self.done, self.total)

        jobs = [([self.tasks[i] for i in members], self.configs[s]) for members, s in missing]
        trained = fit_many(self.cohort, jobs, on_progress=progress, resume=self.resume)
        self.models |= dict(zip(missing, trained, strict=True))
        for members, s in wanted:
            self._score(members, s)

    def attention(self, members: TaskSet) -> np.ndarray:
        """Mean attention [T, T] of the models on a task set, over the training rows and seeds."""
        rows = self.cohort.rows(TRAIN)
        return np.mean([self.models[members, s].attention(self.cohort, rows) for s in range(len(self.seeds))], axis=0)

    def difference_interval(self, a: TaskSet, b: TaskSet, task: int) -> tuple[float, float]:
        """The interval of a task's metric under one set minus another, over seeds and subjects."""
        difference = self.replicates[a][:, task] - self.replicates[b][:, task]
        return interval(difference[self.chosen, np.arange(len(self.draws))].mean(0))

    def _score(self, members: TaskSet, s: int) -> None:
        shape = (len(self.seeds), len(self.tasks))
        value = self.value.setdefault(members, np.full(shape, np.nan))
        replicates = self.replicates.setdefault(members, np.full((*shape, len(self.draws)), np.nan, dtype=np.float32))
        predicted = self.models[members, s].predict(self.cohort)
        for i in members:
            task = self.tasks[i]
            value[s, i] = primary_metric(self.cohort, task, predicted[task.name])
            replicates[s, i] = primary_replicates(self.cohort, task, predicted[task.name], self.draws)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[Callable[[float], float], float]:
    """The least-squares line through points, and twice the spread around it; flat at 0 and unknown without points."""
    if len(x) < 3:
        return (lambda _: float(np.mean(y)) if y else 0.0), float("nan")
    slope, level = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (0.0, float(np.mean(y)))
    spread = 1.96 * float(np.std(np.asarray(y) - (level + slope * np.asarray(x)), ddof=2))
    return (lambda at: float(level + slope * at)), spread


def _listed(values: np.ndarray) -> Any:
    return (
        [_listed(row) for row in values]
        if values.ndim > 1
        else [v if np.isfinite(v) else None for v in values.tolist()]
    )
