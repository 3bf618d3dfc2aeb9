"""trust.json: whether the model's scores can be trusted, on the samples that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.evaluation.scores import (
    Predictions,
    count_patients,
    explain_no_claim,
    find_judged_rows,
    round_value,
)
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec


def describe_trust(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Predictions,
    calibrator: Calibrator | FoldCalibrators,
) -> list[dict[str, Any]]:
    """A record a task that has enough labels to be judged.

    ``error``: the expected calibration error of its probabilities as predicted and ``calibrated``
    (with few rows above 0 even for a perfect model); ``coverage``: how often sets or intervals held
    the truth, with ``low`` and ``high``, and ``positives``, of those whose label is yes; ``size``:
    classes in a set, or an interval's mean width; ``thirds``: the same of the lowest, the middle
    and the highest predictions of a regression task, None for another.
    """
    judged = [
        task
        for task in tasks
        if task.problem != "clustering" and explain_no_claim(cohort, task) is None
    ]
    of_judged = {task.name: predictions[task.name] for task in judged}
    errors = _measure_calibration(cohort, judged, of_judged)
    calibrated_errors = _measure_calibration(cohort, judged, calibrator.calibrated(of_judged))
    regions = calibrator.sets(of_judged) | calibrator.intervals(of_judged)
    records = []
    for task in judged:
        record = _describe_coverage(cohort, task, regions[task.name])
        if task.problem == "regression":
            record["thirds"] = _describe_thirds(
                cohort, task, predictions[task.name], regions[task.name]
            )
        records.append(
            {
                "task": task.name,
                "n": record.pop("n"),
                "error": round_value(errors[task.name]),
                "calibrated": round_value(calibrated_errors[task.name]),
                **record,
            }
        )
    return records


def _measure_calibration(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions
) -> dict[str, float | None]:
    """Task -> its expected calibration error, None where it has none."""
    from m3h_core import evaluate_predictions

    scores = evaluate_predictions(cohort, tasks, predictions, TEST, 1)
    return {name: score.others.get("ECE") for name, score in scores.items()}


def _describe_coverage(cohort: Cohort, task: TaskSpec, regions: np.ndarray) -> dict[str, Any]:
    """How often a task's sets or intervals held the truth."""
    from m3h_core import ObservedCoverage

    rows = find_judged_rows(cohort, task)
    y_true = np.asarray(cohort.labels[task.name])[rows]
    coverage = ObservedCoverage.of(task, y_true, regions[rows], cohort.subjects[rows])
    is_positive = y_true == 1
    of_positives = None
    if task.problem == "binary" and is_positive.sum() >= MIN_GROUP_SIZE:
        of_positives = ObservedCoverage.of(
            task, y_true[is_positive], regions[rows][is_positive]
        ).coverage
    return {
        "n": coverage.n,
        "coverage": round_value(coverage.coverage),
        "low": round_value(coverage.low),
        "high": round_value(coverage.high),
        "size": round_value(coverage.size),
        "positives": round_value(of_positives),
        "thirds": None,
    }


def _describe_thirds(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, intervals: np.ndarray
) -> list[dict[str, Any] | None]:
    """How often a task's intervals held the truth among low, middle and high predictions; None for
    fewer than 10 patients.
    """
    from m3h_core import ObservedCoverage

    rows = find_judged_rows(cohort, task)
    rows = rows[np.argsort(np.asarray(prediction)[rows], kind="stable")]
    y_true = np.asarray(cohort.labels[task.name])
    records: list[dict[str, Any] | None] = []
    for third in np.array_split(rows, 3):
        if count_patients(cohort, np.isin(np.arange(len(cohort)), third)) is None:
            records.append(None)
            continue
        coverage = ObservedCoverage.of(
            task, y_true[third], intervals[third], cohort.subjects[third]
        )
        records.append(
            {
                "n": coverage.n,
                "coverage": round_value(coverage.coverage),
                "low": round_value(coverage.low),
                "high": round_value(coverage.high),
                "size": round_value(coverage.size),
            }
        )
    return records
