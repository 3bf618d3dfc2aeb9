"""A small search over the settings that matter, judged on the validation split and trained through
``fit_many``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.config import FitConfig
from m3h_core.data.cohort import VALID, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.metrics import primary_metric
from m3h_core.training.bank import fit_many
from m3h_core.training.fitted import FittedModel

# What is tried beside the configuration as given, one change at a time: for cohorts longer or
# shorter, and inputs wider or narrower, than those that the defaults were found on.
CHANGES: tuple[Mapping[str, Any], ...] = (
    {"dropout": 0.1},
    {"dropout": 0.5},
    {"weight_decay": 1.0},
    {"weight_decay": 15.0},
    {"hidden": (256, 128)},
    {"attention": False},
)


@dataclass(frozen=True)
class Trial:
    """One configuration with its model and its mean skill on the validation split."""

    config: FitConfig
    model: FittedModel
    skill: float


def tune(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    config: FitConfig | None = None,
    changes: Sequence[Mapping[str, Any]] = CHANGES,
    on_progress: Callable[[int, int], None] | None = None,
    resume: str | Path | None = None,
) -> list[Trial]:
    """Train the configuration as given and with each change; the trials, best first.

    A trial's skill is the mean over the tasks of 2 AUROC - 1 or R2 on the validation rows, and
    counts no task that has no score there; equal trials stay in the order given. ``on_progress``
    and ``resume`` are those of :func:`m3h_core.fit_many`. The best of several is a little better on
    these rows than on others: report its test score, not its skill. Raises ValueError where no task
    can be judged.

    >>> from m3h_core.training.search import CHANGES
    >>> [replace(FitConfig(), **change).dropout for change in CHANGES[:2]]
    [0.1, 0.5]
    """
    base = config or FitConfig()
    configs = list(dict.fromkeys([base, *(replace(base, **change) for change in changes)]))
    models = fit_many(
        cohort, [(tasks, one) for one in configs], on_progress=on_progress, resume=resume
    )
    trials = [
        Trial(one, model, _skill(cohort, tasks, model))
        for one, model in zip(configs, models, strict=True)
    ]
    if np.isnan(trials[0].skill):
        raise ValueError("no task has validation labels that could judge a configuration")
    return sorted(trials, key=lambda trial: -trial.skill)


def _skill(cohort: Cohort, tasks: Sequence[TaskSpec], model: FittedModel) -> float:
    predictions = model.predict(cohort)
    skills = []
    for task in tasks:
        if (
            task.problem == "clustering"
        ):  # a silhouette is no skill: it can be had without learning anything
            continue
        value = primary_metric(cohort, task, predictions[task.name], VALID)
        skills.append(value if task.problem == "regression" else 2 * value - 1)
    defined = [skill for skill in skills if np.isfinite(skill)]
    return float(np.mean(defined)) if defined else float("nan")
