"""Scores of arms over splits, their differences, and intervals that hold both the patients' and the
splits' variation.

Shapes: S splits, T tasks, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import false_discovery_control

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST
from m3h_core.metrics import Resamples, interval, primary_metric, primary_replicates

# Relative changes are given only where there is something to be relative to.
LEAST_SKILL = 0.1


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, replicates: np.ndarray) -> Estimate:
        """The interval is that of the replicates [R]."""
        return cls(float(value), *interval(replicates))

    @property
    def beyond_zero(self) -> int:
        """1 or -1 where the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Scores:
    """The primary metric of one arm: mean over splits [T], and in each resample of patients and
    splits [T, R].
    """

    tasks: tuple[TaskSpec, ...]
    values: np.ndarray
    replicates: np.ndarray

    @classmethod
    def of(
        cls,
        tasks: Sequence[TaskSpec],
        cohorts: Sequence[Cohort],
        predictions: Sequence[Mapping[str, np.ndarray]],
        draws: Resamples,
    ) -> Scores:
        """Judge one arm; ``cohorts`` and ``predictions`` hold one entry a split."""
        values_ST = []
        replicates_STR = []
        for cohort, by_name in zip(cohorts, predictions, strict=True):
            values_ST.append([primary_metric(cohort, task, by_name[task.name]) for task in tasks])
            replicates_STR.append(
                [primary_replicates(cohort, task, by_name[task.name], draws) for task in tasks]
            )
        return cls(tuple(tasks), np.mean(values_ST, axis=0), _over_splits(np.array(replicates_STR)))

    def subset(self, names: Collection[str]) -> Scores:
        """The scores of some tasks."""
        at = [i for i, task in enumerate(self.tasks) if task.name in names]
        return Scores(tuple(self.tasks[i] for i in at), self.values[at], self.replicates[at])

    def mean(self) -> Estimate:
        """The mean over tasks."""
        return Estimate.of(self.values.mean(), self.replicates.mean(0))

    def skills(self) -> Scores:
        """On a scale where 0 is what a constant reaches and 1 is perfect: 2 AUROC - 1, or R2."""
        scale = np.array([1.0 if task.problem == "regression" else 2.0 for task in self.tasks])
        return Scores(
            self.tasks,
            scale * self.values - (scale - 1),
            scale[:, None] * (self.replicates - 1) + 1,
        )


def draws_of(cohort: Cohort, resamples: int) -> Resamples:
    """Resamples of all patients, the same for all arms, tasks and splits.

    A patient who is in the test rows of several splits is drawn in all of them or in none, so that
    splits whose test rows overlap don't count as if each had patients of its own.
    """
    everyone = replace(cohort, split=np.full(len(cohort), TEST))
    return Resamples(everyone, TEST, resamples, seed=0)


def _over_splits(replicates_STR: np.ndarray) -> np.ndarray:
    """Means [T, R] over splits that are resampled too; the draws are the same for every arm."""
    n_splits, _, n = replicates_STR.shape
    splits = np.random.default_rng([n_splits, n]).integers(n_splits, size=(n, n_splits))
    return replicates_STR[splits, :, np.arange(n)[:, None]].mean(1).T


def difference(a: Scores, b: Scores) -> Estimate:
    """Mean over tasks of a's score minus b's."""
    return Estimate.of((a.values - b.values).mean(), (a.replicates - b.replicates).mean(0))


def headroom(a: Scores, b: Scores) -> Estimate:
    """Mean over tasks of the difference as a share of what b leaves to 1.

    Resamples in which b leaves nothing are not counted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate.of(
            ((a.values - b.values) / (1 - b.values)).mean(),
            ((a.replicates - b.replicates) / (1 - b.replicates)).mean(0),
        )


def relative(a: Scores, b: Scores, single: Scores) -> Estimate | None:
    """Mean over tasks of the relative change in skill, where the single-task model's skill is
    beyond LEAST_SKILL.
    """
    kept = [
        t.name
        for t, skill in zip(single.tasks, single.skills().values, strict=True)
        if skill > LEAST_SKILL
    ]
    a, b = (scores.subset(kept).skills() for scores in (a, b))
    if not kept or (b.values <= 0).any():
        return None
    return Estimate.of((a.values / b.values - 1).mean(), (a.replicates / b.replicates - 1).mean(0))


def skill_ratio(a: Scores, b: Scores) -> Estimate:
    """The ratio of the mean skills: stable where single tasks have next to none."""
    a = a.skills()
    b = b.skills()
    return Estimate.of(
        a.values.mean() / b.values.mean(), a.replicates.mean(0) / b.replicates.mean(0)
    )


def by_task(a: Scores, b: Scores) -> dict[str, Estimate]:
    """Each task's difference."""
    rows = zip(a.tasks, a.values - b.values, a.replicates - b.replicates, strict=True)
    return {task.name: Estimate.of(value, replicates) for task, value, replicates in rows}


def better_and_worse(a: Scores, b: Scores) -> dict[str, int]:
    """Numbers of tasks whose difference is certain: by each interval, and with the false discovery
    rate at 5%.
    """
    signs = np.array([estimate.beyond_zero for estimate in by_task(a, b).values()])
    is_discovery = discoveries(two_sided(a.replicates - b.replicates))
    direction = np.sign(a.values - b.values)
    return {
        "better": int((signs > 0).sum()),
        "worse": int((signs < 0).sum()),
        "better_fdr": int((is_discovery & (direction > 0)).sum()),
        "worse_fdr": int((is_discovery & (direction < 0)).sum()),
    }


def two_sided(replicates: np.ndarray) -> np.ndarray:
    """P values [T] that a difference is zero, from its replicates [T, R]."""
    n = replicates.shape[1]
    tail = np.minimum((replicates <= 0).sum(1), (replicates >= 0).sum(1))
    return np.minimum(1.0, 2 * (tail + 1) / (n + 1))


def discoveries(p: np.ndarray, rate: float = 0.05) -> np.ndarray:
    """Which of these p values stand, by Benjamini and Hochberg.

    >>> discoveries(np.array([0.01, 0.04, 0.03, 0.9]))
    array([ True, False, False, False])
    """
    return false_discovery_control(p) <= rate
