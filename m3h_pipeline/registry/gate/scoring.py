"""Metrics on the samples that are judged with their replicates, for one model and for two on the
same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.metrics import Resamples

Predictions = Mapping[str, np.ndarray]
# A metric that is undefined in more of the resamples has no bounds worth the name.
_DEFINED = 0.9


@dataclass(frozen=True)
class ScoredTask:
    """A task's metric on the samples that are judged, and its replicates [R]."""

    metric: str
    value: float
    replicates: np.ndarray


@dataclass(frozen=True)
class PairedScores:
    """Tasks that two models predict: (task, metric, value, other) each, and replicates [R, T] of
    the differences."""

    tasks: list[tuple[str, str, float, float]]
    replicates: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """The estimates [T]."""
        return np.array([value - other for _, _, value, other in self.tasks])


def score_tasks(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions, draws: Resamples
) -> dict[str, ScoredTask]:
    """The tasks whose metric is defined, in their order."""
    from m3h_core.metrics import METRICS, primary_metric, primary_replicates

    scored = {}
    for task in tasks:
        prediction = np.asarray(predictions[task.name])
        one = ScoredTask(
            METRICS[task.problem],
            primary_metric(cohort, task, prediction),
            primary_replicates(cohort, task, prediction, draws),
        )
        if np.isfinite(one.value) and np.isfinite(one.replicates).mean() >= _DEFINED:
            scored[task.name] = one
    return scored


def pair(candidate: Mapping[str, ScoredTask], other: Mapping[str, ScoredTask]) -> PairedScores:
    """The tasks for which both metrics are defined."""
    shared = [name for name in candidate if name in other]
    tasks = []
    for name in shared:
        ours = candidate[name]
        tasks.append((name, ours.metric, ours.value, other[name].value))
    differences = [candidate[name].replicates - other[name].replicates for name in shared]
    return PairedScores(tasks, np.stack(differences, axis=1) if differences else np.zeros((0, 0)))


def have_same_classes(task: TaskSpec, candidate: Predictions, other: Predictions) -> bool:
    """Whether both predict the same classes; clusters are judged by their silhouette, however many
    there are."""
    if task.problem == "clustering":
        return True
    return np.shape(candidate[task.name])[1:] == np.shape(other[task.name])[1:]
