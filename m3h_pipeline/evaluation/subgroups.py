"""Each group of the audit columns against everybody else, on the samples that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_pipeline.evaluation.scores import (
    Predictions,
    contrast_variants,
    count_patients,
    explain_no_claim,
    score_variants,
)

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.metrics import Resamples


def describe_subgroups(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions, draws: Resamples
) -> list[dict[str, Any]]:
    """A record a group, over the tasks that both the group and all others have labels enough
    for.
    """
    supervised = [task for task in tasks if task.problem in ("binary", "multiclass")]
    records = []
    for attribute, values in (cohort.groups or {}).items():
        for group in sorted(set(values)):
            mask = np.asarray(values) == group
            record = {"attribute": attribute, "group": group, "n": count_patients(cohort, mask)}
            compared: dict[str, Any] = {"tasks": []}
            if record["n"] is not None:
                compared = _compare_group(cohort, supervised, predictions, mask, draws)
            records.append(record | compared)
    return records


def _compare_group(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Predictions,
    mask: np.ndarray,
    draws: Resamples,
) -> dict[str, Any]:
    """The mean over the tasks, and a record each in ``tasks``; without any, ``tasks`` is empty."""
    sides = [_mask_labels(cohort, mask), _mask_labels(cohort, ~mask)]
    judged = [
        task
        for task in tasks
        if explain_no_claim(sides[0], task) is None and explain_no_claim(sides[1], task) is None
    ]
    if not judged:
        return {"tasks": []}
    values, replicates = score_variants(sides, judged, [predictions] * 2, draws)
    return {
        "tasks": [
            _describe_task(task.name, values[:, at], replicates[:, at])
            for at, task in enumerate(judged)
        ],
        **contrast_variants(values.mean(1), replicates.mean(1)),
    }


def _describe_task(name: str, values: np.ndarray, replicates: np.ndarray) -> dict[str, Any]:
    """One task in the group, and the group minus all others; from [2] and [2, R]."""
    contrast = contrast_variants(values, replicates)
    del contrast["others"]
    return {"task": name, **contrast}


def _mask_labels(cohort: Cohort, mask: np.ndarray) -> Cohort:
    """The cohort with the labels of some rows alone."""
    labelled = {name: np.asarray(rows) & mask for name, rows in cohort.labelled.items()}
    return replace(cohort, labelled=labelled)
