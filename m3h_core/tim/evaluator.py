"""Task sets: trained, scored, and contrasts of their scores measured with their error.

Shapes: S seeds, R resamples of the test subjects, T tasks, n contrasts. P_i(A) is the metric of
task i in a model that was trained on the task set A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from m3h_core.config import FitConfig
from m3h_core.data.cohort import TEST, VALID, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.metrics import Resamples, primary_metric, primary_replicates
from m3h_core.training.bank import Bank, OnProgress
from m3h_core.training.fitted import FittedModel

TaskSet = tuple[int, ...]
# A sum of scores {(task set, task): weight}, such as P_i({i, j}) - P_i({i}).
Contrast = Mapping[tuple[TaskSet, int], float]

# With at most so many cells' worth of its family a cell's own spread over seeds is taken: two seeds
# say little.
_PRIOR_CELLS = 10.0
_CONFIDENCE = 0.95


class Scored(NamedTuple):
    """One task in one trained model: its metric on the test and validation split, and on R
    resamples of the test.
    """

    test: float
    valid: float
    replicates: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Contrasts [n] on the test split: value, 95% interval, two-sided p value of being 0 (NaN with
    a single seed).
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


class Progress:
    """Models done, out of those planned so far."""

    def __init__(self, tell: OnProgress | None) -> None:
        self.tell = tell
        self.done = 0
        self.planned = 0

    def advance(self, models: int) -> None:
        """So many more models are done."""
        self.done += models
        if self.tell and models:
            self.tell(self.done, max(self.done, self.planned))


class TaskSetEvaluator:
    """Trains task sets for every seed; a model is dropped once it is scored."""

    def __init__(
        self,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        config: FitConfig,
        seeds: Sequence[int],
        n_bootstrap: int = 200,
        resume: str | Path | None = None,
        on_progress: OnProgress | None = None,
        workers: int = 1,
    ) -> None:
        self.cohort = cohort
        self.tasks = tuple(tasks)
        self.seeds = tuple(seeds)
        self.resume = resume
        self.configs = [replace(config, seed=seed) for seed in seeds]
        self.bank = Bank(cohort, tasks, workers)
        self.progress = Progress(on_progress)
        self.draws = Resamples(cohort, TEST, n_bootstrap, config.seed)
        self.scored: dict[tuple[TaskSet, int], dict[int, Scored]] = {}
        self.trained = 0

    def for_network(self, config: FitConfig, seeds: Sequence[int]) -> TaskSetEvaluator:
        """One for another network or other seeds; what was prepared of the cohort and the progress
        are shared.
        """
        other = TaskSetEvaluator(
            self.cohort, self.tasks, config, seeds, len(self.draws), self.resume
        )
        other.bank = self.bank
        other.progress = self.progress
        return other

    def reuse(self, models: Iterable[FittedModel]) -> None:
        """Take models that were trained before on some of these tasks with one of these
        configurations.
        """
        at = {task.name: i for i, task in enumerate(self.tasks)}
        for model in models:
            members = tuple(at.get(task.name, -1) for task in model.tasks)
            if min(members) < 0 or list(members) != sorted(members):
                continue
            for s, config in enumerate(self.configs):
                if model.config == config and (members, s) not in self.scored:
                    self._score((members, s), model)

    def lacking(self, sets: Iterable[TaskSet]) -> list[tuple[TaskSet, int]]:
        """The task sets and seeds that are still to be trained, each once."""
        wanted = [(members, s) for s in range(len(self.seeds)) for members in dict.fromkeys(sets)]
        return [key for key in wanted if key not in self.scored]

    def plan(self, models: int) -> None:
        """Say that so many more models will be trained: what progress is out of."""
        self.progress.planned += models

    def train(self, sets: Iterable[TaskSet]) -> None:
        """Train these sets for every seed, where that is not done yet, and score them."""
        missing = self.lacking(sets)
        before = self.progress.done

        def progress(done: int, _: int) -> None:
            self.progress.advance(before + done - self.progress.done)

        jobs = [(self._select_tasks(members), self.configs[s]) for members, s in missing]
        for at, model in self.bank.train(jobs, on_progress=progress, resume=self.resume):
            self._score(missing[at], model)
        self.trained += len(missing)

    def names_of(self, members: TaskSet) -> tuple[str, ...]:
        """The names of a set's tasks."""
        return tuple(self.tasks[i].name for i in members)

    def _select_tasks(self, members: TaskSet) -> list[TaskSpec]:
        return [self.tasks[i] for i in members]

    def is_trained(self, members: TaskSet) -> bool:
        """Whether a task set was trained for every seed."""
        return all((members, s) in self.scored for s in range(len(self.seeds)))

    def values(self, contrasts: Sequence[Contrast], split: int = TEST) -> np.ndarray:
        """The contrasts [n] on the test or the validation split, means over the seeds."""
        return self._by_seed(contrasts, split).mean(1)

    def measure(
        self,
        contrasts: Sequence[Contrast],
        families: Sequence[int],
        sampling: np.ndarray | None = None,
    ) -> Measured:
        """Contrasts on the test split with their error, from resampled subjects and from the spread
        over seeds.

        Seeds are few, so each contrast's variance over them is moderated by the mean over its
        family (the cells of one task), as in a moderated t test. ``sampling``: a further standard
        error [n], of sets that were drawn. With one seed the interval is that of the subjects
        alone, and there is no p value.
        """
        by_seed = self._by_seed(contrasts, TEST)
        value = by_seed.mean(1)
        n_seeds = len(self.seeds)
        subjects = np.array(
            [_variance(self._replicates(contrast)) for contrast in contrasts]
        ).reshape(len(contrasts))
        freedom_subjects = max(1, self.draws.n_subjects - 1)
        seeds = np.zeros(len(contrasts))
        freedom_seeds = np.full(len(contrasts), np.inf)
        if n_seeds > 1:
            own = by_seed.var(1, ddof=1)
            family = np.asarray(families)
            pooled, size = np.transpose([_mean_and_count(own[family == f]) for f in family])
            # A family's cells share their single-task models: two of them say about as much as one
            # apart.
            prior = np.minimum(_PRIOR_CELLS, size / 2)
            seeds = (prior * pooled + own) / (prior + 1) / n_seeds
            freedom_seeds = (prior + 1) * (n_seeds - 1)
        drawn = np.zeros(len(contrasts)) if sampling is None else np.square(sampling)
        total = subjects + seeds + drawn
        with np.errstate(invalid="ignore", divide="ignore"):
            # Satterthwaite: the degrees of freedom of a sum of variances.
            freedom = total**2 / (
                subjects**2 / freedom_subjects + (seeds + drawn) ** 2 / freedom_seeds
            )
            freedom = np.where(np.isfinite(freedom), freedom, freedom_subjects)
            error = np.sqrt(total)
            reach = stats.t.ppf(0.5 + _CONFIDENCE / 2, freedom) * error
            p = np.where(error > 0, 2 * stats.t.sf(np.abs(value) / error, freedom), 1.0)
        p = np.where(np.isfinite(value) & (n_seeds > 1), p, np.nan)
        return Measured(value, value - reach, value + reach, p)

    def _by_seed(self, contrasts: Sequence[Contrast], split: int) -> np.ndarray:
        """The contrasts [n, S] of each seed."""
        field = {TEST: 0, VALID: 1}[split]
        values = np.zeros((len(contrasts), len(self.seeds)))
        for at, contrast in enumerate(contrasts):
            for s in range(len(self.seeds)):
                values[at, s] = sum(
                    weight * self.scored[members, s][i][field]
                    for (members, i), weight in contrast.items()
                )
        return values

    def _replicates(self, contrast: Contrast) -> np.ndarray:
        """A contrast [R] on each resample of the subjects, mean over the seeds."""
        parts = [
            w * self.scored[a, s][i].replicates
            for (a, i), w in contrast.items()
            for s in range(len(self.seeds))
        ]
        return np.sum(parts, axis=0) / len(self.seeds)

    def _score(self, key: tuple[TaskSet, int], model: FittedModel) -> None:
        predicted = model.predict(self.cohort)
        scores = {}
        for i in key[0]:
            task = self.tasks[i]
            prediction = predicted[self.tasks[i].name]
            scores[i] = Scored(
                primary_metric(self.cohort, task, prediction, TEST),
                primary_metric(self.cohort, task, prediction, VALID),
                primary_replicates(self.cohort, task, prediction, self.draws).astype(np.float32),
            )
        self.scored[key] = scores


def _variance(replicates: np.ndarray) -> float:
    defined = replicates[np.isfinite(replicates)]
    return float(defined.var(ddof=1)) if len(defined) > 1 else float("nan")


def _mean_and_count(values: np.ndarray) -> tuple[float, int]:
    defined = values[np.isfinite(values)]
    return (float(defined.mean()), len(defined)) if len(defined) else (0.0, 0)
