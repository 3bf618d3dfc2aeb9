"""The arms: ways to predict the tasks, each judged on the same rows.

An arm sees the labels of training and validation rows alone. Here are the networks; those that fit
each task by itself are in task_arms.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from m3h_core import Cohort, FitConfig, TaskSpec, fit, fit_many
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID
from m3h_core.data.folds import assign_folds, seed_of_fold

Predictions = dict[str, np.ndarray]


@dataclass(frozen=True)
class Arm:
    """A way to predict tasks: ``settings`` are JSON-ready and say all that shapes it, ``fit`` does
    it.

    ``raw`` inputs or embedded ones, of these with ``series`` the series step by step, with
    ``plain`` few statistics of each signal; ``alone`` where each task is fitted by itself, and
    ``by_task`` where its predictions are also kept by themselves; ``network`` where the predictions
    follow the library's code.
    """

    name: str
    settings: Mapping[str, Any]
    fit: Callable[[Cohort, Sequence[TaskSpec], int], Predictions]
    raw: bool = False
    series: bool = False
    plain: bool = False
    alone: bool = False
    by_task: bool = False
    network: bool = False


def joint(name: str, changes: Mapping[str, Any]) -> Arm:
    """One network on all tasks, its configuration changed so."""

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        return fit(cohort, tasks, FitConfig(**changes, seed=seed)).predict(cohort)

    return Arm(name, {"kind": "joint"} | FitConfig(**changes).to_dict(), fitted, network=True)


def single(name: str, changes: Mapping[str, Any]) -> Arm:
    """The same network once a task."""

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        config = FitConfig(**changes, seed=seed)
        models = fit_many(cohort, [([task], config) for task in tasks])
        return {name: values for model in models for name, values in model.predict(cohort).items()}

    return Arm(
        name, {"kind": "single"} | FitConfig(**changes).to_dict(), fitted, alone=True, network=True
    )


def cross_fitted(arm: Arm, n_folds: int) -> Arm:
    """An arm as the pipeline trains it: a model a fold of the training and validation rows, whose
    mean is the prediction of test rows; a fold's own rows get that of the model without them.
    """
    if n_folds < 2:
        return arm

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        fold = find_folds(cohort, n_folds)
        parts = [
            arm.fit(without_fold(cohort, fold, at), tasks, seed_of_fold(seed, at))
            for at in range(n_folds)
        ]
        return average_folds(fold, parts)

    settings = {**arm.settings, "folds": n_folds, "seeds": "by fold"}
    return replace(arm, settings=settings, fit=fitted)


def find_folds(cohort: Cohort, n_folds: int) -> np.ndarray:
    """The fold of each training and validation row [N], -1 of the others."""
    is_learned = np.isin(cohort.split, (TRAIN, VALID))
    return np.where(is_learned, assign_folds(cohort.subjects, n_folds), -1)


def without_fold(cohort: Cohort, fold: np.ndarray, at: int) -> Cohort:
    """The cohort in which the rows of fold ``at`` serve nothing."""
    return replace(cohort, split=np.where(fold == at, CALIBRATION, cohort.split))


def average_folds(fold: np.ndarray, parts: Sequence[Predictions]) -> Predictions:
    """The mean of the predictions of each fold's model; a fold's own rows get that of the model
    without them.
    """
    predictions = {}
    for name in parts[0]:
        if len({part[name].shape for part in parts}) > 1:
            continue  # clusters, of which each model found as many as it liked
        values = np.mean([part[name] for part in parts], axis=0)
        for at, part in enumerate(parts):
            values[fold == at] = part[name][fold == at]
        predictions[name] = values
    return predictions


def single_own_rows(name: str, changes: Mapping[str, Any]) -> Arm:
    """The same network once a task, which reads only the rows that are labelled.

    Where most rows have no label, a batch holds few that count: this arm's batches are full, and
    its epochs shorter.
    """
    whole = single(name, changes)

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        parts = [whole.fit(own_rows(cohort, task), [task], seed) for task in tasks]
        return {name: values for part in parts for name, values in part.items()}

    return replace(
        whole, settings={**whole.settings, "kind": "single on own rows"}, fit=fitted, by_task=True
    )


def own_rows(cohort: Cohort, task: TaskSpec) -> Cohort:
    """The cohort without the training and validation rows on which a task is not labelled."""
    kept = cohort.labelled[task.name] | (cohort.split == TEST)
    return replace(cohort, split=np.where(kept, cohort.split, CALIBRATION))
