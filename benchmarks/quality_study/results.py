"""What the arms predicted, and what their scores come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from m3h_core.ensemble.mixture import Mixture
from m3h_core.metrics import Resamples
from quality_study.arms import Predictions
from quality_study.statistics import (
    Estimate,
    Scores,
    better_and_worse,
    by_task,
    difference,
    headroom,
    relative,
    skill_ratio,
)

# A cohort that arms were fitted on, and the tasks whose predictions are kept.
Learned = tuple[Cohort, Sequence[TaskSpec]]
# Each of these arms is compared with all others.
COMPARED = ("joint", "joint+trees", "joint+recurrent+trees")


@dataclass
class Results:
    """What the arms predicted in one part, a setting or a point of the curve: {arm: one entry a
    split}; ``seconds``: of CPU time; ``learned``: what they were fitted on, {seed: {names of the
    tasks that are kept: cohort and tasks}}; ``has_folds``: whether the members of mixtures are
    cross-fitted.
    """

    has_folds: bool = False

    predictions: dict[str, list[Predictions]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    learned: dict[int, dict[tuple[str, ...], Learned]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(
        self, arm: str, seed: int, learned: Learned, predictions: Predictions, seconds: float
    ) -> None:
        """Take up one cell; cells of one seed and arm belong together."""
        self.learned[seed][tuple(task.name for task in learned[1])] = learned
        of_arm = self.predictions[arm]
        of_arm.extend({} for _ in range(seed + 1 - len(of_arm)))
        of_arm[seed].update(predictions)
        self.seconds[arm] += seconds

    def average(self, name: str, arms: Sequence[str]) -> None:
        """Take up the mean of some arms' predictions as an arm of its own."""
        if not all(arm in self.predictions for arm in arms):
            return
        means = []
        for by_arm in zip(*(self.predictions[arm] for arm in arms), strict=True):
            mean: Predictions = {}
            for task in set.intersection(*map(set, by_arm)):
                mean[task] = np.mean([predictions[task] for predictions in by_arm], axis=0)
            means.append(mean)
        self.predictions[name] = means
        self.seconds[name] = sum(self.seconds[arm] for arm in arms)

    def mix(self, name: str, network: str, trees: str) -> None:
        """Take up the ensemble of two arms, weighted as the pipeline does, as an arm of its own."""
        if network not in self.predictions or trees not in self.predictions:
            return
        of_both = zip(self.predictions[network], self.predictions[trees], strict=True)
        mixtures = []
        for seed, (of_network, of_trees) in enumerate(of_both):
            mixed: Predictions = {}
            for cohort, tasks in self.learned[seed].values():
                # Of arms that were not cross-fitted the validation split alone was not trained on.
                splits = (TRAIN, VALID) if self.has_folds else (VALID,)
                rows = np.flatnonzero(np.isin(cohort.split, splits))
                own = {task.name: of_network[task.name] for task in tasks}
                mixture = Mixture.fit(cohort, tasks, own, of_trees, rows)
                mixed |= mixture.apply(own, of_trees)
            mixtures.append(mixed)
        self.predictions[name] = mixtures
        self.seconds[name] = sum(self.seconds[arm] for arm in {network, trees})


def summarize(
    results: Results,
    cohorts: Sequence[Cohort],
    tasks: Sequence[TaskSpec],
    groups: Mapping[str, Collection[str]],
    draws: Resamples,
) -> dict[str, Any]:
    """All numbers of one part, JSON-ready; an interval is [value, low, high].

    ``groups``: the tasks over which scores are averaged, by name.
    """
    scores = {
        arm: Scores.of(tasks, cohorts, predictions, draws)
        for arm, predictions in results.predictions.items()
    }
    record: dict[str, Any] = {
        "cpu seconds": dict(results.seconds),
        "tasks": {arm: _by_task(of_arm) for arm, of_arm in scores.items()},
        "means": {arm: _means(groups, of_arm) for arm, of_arm in scores.items()},
        "average precision": {
            arm: _average_precision(cohorts, tasks, predictions)
            for arm, predictions in results.predictions.items()
        },
    }
    alone = scores.get("single")
    for first in COMPARED:
        if first not in scores:
            continue
        own = scores[first]
        against = {arm: other for arm, other in scores.items() if arm != first}
        record[f"{first} minus"] = {
            arm: _compared(groups, own, other, alone) for arm, other in against.items()
        }
        record[f"{first} minus, by task"] = {
            arm: _to_tuples(by_task(own, other)) for arm, other in against.items()
        }
    return record


def _average_precision(
    cohorts: Sequence[Cohort], tasks: Sequence[TaskSpec], predictions: Sequence[Predictions]
) -> dict[str, float]:
    """The mean over splits of each binary task's average precision (AUPRC) on the test rows."""
    means = {}
    for task in tasks:
        if task.problem != "binary":
            continue
        values = []
        for cohort, of_split in zip(cohorts, predictions, strict=True):
            rows = np.flatnonzero(cohort.labelled[task.name] & (cohort.split == TEST))
            y_true = np.asarray(cohort.labels[task.name])[rows]
            values.append(average_precision_score(y_true, of_split[task.name][rows]))
        means[task.name] = float(np.mean(values))
    return means


def _to_tuples(estimates: Mapping[str, Estimate]) -> dict[str, tuple]:
    return {name: astuple(estimate) for name, estimate in estimates.items()}


def _by_task(scores: Scores) -> dict[str, tuple]:
    rows = zip(scores.tasks, scores.values, scores.replicates, strict=True)
    return {task.name: astuple(Estimate.of(value, replicates)) for task, value, replicates in rows}


def _by_group(groups: Mapping[str, Collection[str]], scores: Scores) -> dict[str, Scores]:
    """The scores of each group that has any."""
    parts = {group: scores.subset(names) for group, names in groups.items()}
    return {group: some for group, some in parts.items() if some.tasks}


def _means(groups: Mapping[str, Collection[str]], scores: Scores) -> dict[str, tuple]:
    by_group = _by_group(groups, scores)
    means = {group: astuple(some.mean()) for group, some in by_group.items()}
    return means | {"skill": astuple(scores.skills().mean())}


def _compared(
    groups: Mapping[str, Collection[str]], first: Scores, other: Scores, single: Scores | None
) -> dict[str, Any]:
    """One arm minus another, by group; relative only where the single-task model has been trained
    too.
    """
    record: dict[str, Any] = {}
    for group, own in _by_group(groups, first).items():
        names = [task.name for task in own.tasks]
        others = other.subset(names)
        alone = single.subset(names) if single else None
        change = relative(own, others, alone) if alone else None
        record[group] = {
            "difference": astuple(difference(own, others)),
            "headroom": astuple(headroom(own, others)),
            "relative": astuple(change) if change else None,
            "tasks": len(names),
            **better_and_worse(own, others),
        }
    record["skill"] = {
        "difference": astuple(difference(first.skills(), other.skills())),
        "ratio": astuple(skill_ratio(first, other)),
    }
    return record
