"""What every source of patients gives to the benchmark, and how its cohorts are cut to fewer rows
or labels.

Shapes: N rows of a cohort.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import CALIBRATION, TRAIN, VALID
from m3h_pipeline.errors import InputError

# So many tasks have few labels at once: one model of all tasks then serves as many of them.
_SCARCE_AT_ONCE = 5


class Data(ABC):
    """Patients and their tasks, all that are ``declared``; with ``only``, these tasks alone."""

    declared: Sequence[TaskSpec]

    def __init__(self, only: Collection[str] = ()) -> None:
        self._only = only

    @property
    @abstractmethod
    def left_out(self) -> Mapping[str, str]:
        """Task -> why it is neither learned nor judged."""

    @property
    @abstractmethod
    def scarce_tasks(self) -> Sequence[str]:
        """The tasks that are tried with few labels."""

    @cached_property
    def scarce_groups(self) -> list[list[str]]:
        """These in groups that have few labels at once: at most `_SCARCE_AT_ONCE`, none of them
        another's near-twin.
        """
        groups: list[list[str]] = []
        for task in self.scarce_tasks:
            twins = self.near_twins(task)
            fitting = [
                group
                for group in groups
                if len(group) < _SCARCE_AT_ONCE and not twins.intersection(group)
            ]
            if fitting:
                fitting[0].append(task)
            else:
                groups.append([task])
        return groups

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the results must know, a paragraph each."""
        return ()

    @cached_property
    def tasks(self) -> list[TaskSpec]:
        """The tasks that are judged."""
        return [
            task for task in self.declared if task.problem != "clustering" and self._is_wanted(task)
        ]

    @cached_property
    def helpers(self) -> list[TaskSpec]:
        """Tasks that the networks of all tasks learn too, as in the pipeline."""
        return [
            task for task in self.declared if task.problem == "clustering" and self._is_wanted(task)
        ]

    def _is_wanted(self, task: TaskSpec) -> bool:
        return task.name not in self.left_out and (not self._only or task.name in self._only)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The tasks whose scores are averaged, by the metric's name."""
        names = tuple(task.name for task in self.tasks)
        regression = tuple(task.name for task in self.tasks if task.problem == "regression")
        others = tuple(name for name in names if name not in regression)
        return {"AUROC": others, "R2": regression, "all": names}

    @abstractmethod
    def cohort(self, seed: int) -> Cohort:
        """The seed's split, with labels; its inputs are not embedded yet."""

    @abstractmethod
    def embedded(self, cohort: Cohort) -> Cohort:
        """The cohort whose inputs are embedded as a user's would be, fitted on its training rows
        alone.
        """

    def with_series(self, embedded: Cohort) -> Cohort:
        """The embedded cohort with the series themselves, step by step, in the place of their
        statistics.
        """
        raise InputError("these patients have no series: leave the recurrent arms out")

    def plain(self, cohort: Cohort) -> Cohort:
        """The cohort embedded with the thirteen statistics of a signal that an earlier version had:
        no windows, no recency.
        """
        raise InputError("these patients have no series: leave the arm lightgbm-13 out")

    @abstractmethod
    def near_twins(self, task: str) -> set[str]:
        """The tasks whose labels would give this one's away."""


def shuffled(n: int, seed: int) -> np.ndarray:
    """The seed's order of rows or patients: it draws the split, and who is left where few rows
    are.
    """
    return np.random.default_rng(seed).permutation(n)


def fewer_rows(cohort: Cohort, n_train: int, seed: int) -> Cohort:
    """The cohort with so many training rows, the validation rows cut in proportion; the test rows
    stay.

    What is left out goes to the calibration split, which nothing here reads.
    """
    split = cohort.split.copy()
    share = n_train / (split == TRAIN).sum()
    order = shuffled(len(cohort), seed)
    for part in (TRAIN, VALID):
        rows = order[split[order] == part]
        split[rows[round(share * len(rows)) :]] = CALIBRATION
    return replace(cohort, split=split)


def scarce(
    cohort: Cohort, task: str, twins: Collection[str], n_train: int, n_valid: int, seed: int
) -> Cohort:
    """The cohort in which a task has so few labelled training and validation rows; its near-twins
    lose theirs too.
    """
    order = shuffled(len(cohort), seed)
    hidden = np.zeros(len(cohort), dtype=bool)
    for part, n in ((TRAIN, n_train), (VALID, n_valid)):
        rows = order[cohort.split[order] == part]
        labels = rows[cohort.labelled[task][rows]]
        hidden[rows] = True
        hidden[labels[:n]] = False
    masked = {name: cohort.labelled[name] & ~hidden for name in {task, *twins}}
    return replace(cohort, labelled={**cohort.labelled, **masked})
