"""Cross-fitting: `fit`, `fit_many` and `fit_trees` once a fold of the cohort.

Each model learns from the subjects of all other folds, with a seed of its own; a clustering task
has as many clusters in all as the first model chose. A cohort without folds gets a single model.
All can be resumed, fold by fold, as the functions that they call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.folds import seed_of_fold
from m3h_core.data.tasks import TaskSpec
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.trees import TreeModels, fit_trees
from m3h_core.training.bank import Job, OnProgress, fit_many
from m3h_core.training.fit import fit
from m3h_core.training.fitted import FittedModel

OnFoldEpoch = Callable[[int, dict[str, Any]], None]


def cross_fit(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    config: FitConfig | None = None,
    on_epoch: OnFoldEpoch | None = None,
    resume: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    distributed: bool = False,
) -> FoldModels[FittedModel]:
    """One model of all tasks a fold; see :func:`m3h_core.fit`. ``on_epoch`` also receives the
    fold, first.
    """

    def report_of(fold: int) -> Callable[[dict[str, Any]], None] | None:
        return None if on_epoch is None else lambda state: on_epoch(fold, state)

    models = []
    for fold in range(cohort.n_folds):
        kept = None if resume is None else Path(resume) / str(fold)
        own = _with_own_seed(config, fold)
        model = fit(cohort.for_fold(fold), tasks, own, report_of(fold), kept, stop, distributed)
        tasks = model.tasks
        models.append(model)
    return FoldModels(tuple(models))


def cross_fit_many(
    cohort: Cohort,
    jobs: Sequence[Job],
    on_progress: OnProgress | None = None,
    resume: str | Path | None = None,
    workers: int = 1,
) -> list[FoldModels[FittedModel]]:
    """The models of each (tasks, configuration), one a fold; see :func:`m3h_core.fit_many`."""
    by_fold: list[list[FittedModel]] = []
    for fold in range(cohort.n_folds):
        kept = None if resume is None else Path(resume) / str(fold)
        report = _count_on(on_progress, fold, cohort.n_folds)
        own = [(tasks, _with_own_seed(config, fold)) for tasks, config in jobs]
        models = fit_many(cohort.for_fold(fold), own, report, kept, workers)
        jobs = [(model.tasks, config) for model, (_, config) in zip(models, jobs, strict=True)]
        by_fold.append(models)
    return [FoldModels(models) for models in zip(*by_fold, strict=True)]


def cross_fit_trees(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    *,
    rounds: int = 200,
    seed: int = 0,
    resume: str | Path | None = None,
    on_progress: OnProgress | None = None,
    workers: int = 0,
) -> FoldModels[TreeModels]:
    """Boosted trees of each task, of each fold; see :func:`m3h_core.ensemble.trees.fit_trees`."""
    models = []
    for fold in range(cohort.n_folds):
        model = fit_trees(
            cohort.for_fold(fold),
            tasks,
            rounds=rounds,
            seed=seed_of_fold(seed, fold),
            resume=resume,
            on_progress=_count_on(on_progress, fold, cohort.n_folds),
            workers=workers,
        )
        models.append(model)
    return FoldModels(tuple(models))


def _with_own_seed(config: FitConfig | None, fold: int) -> FitConfig:
    config = config or FitConfig()
    return replace(config, seed=seed_of_fold(config.seed, fold))


def _count_on(on_progress: OnProgress | None, fold: int, n_folds: int) -> OnProgress | None:
    """Counts the models of one fold as part of those of all."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(fold * total + done, n_folds * total)
