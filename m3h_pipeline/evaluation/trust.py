"""trust.json: whether the joint model's scores can be trusted, on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.evaluation.scores import Predictions, explain_no_claim, round_value
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, TaskSpec


def describe_trust(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Predictions,
    calibrator: Calibrator,
) -> list[dict[str, Any]]:
    """A record a task that has enough labels on the test split.

    ``error``: the expected calibration error of its probabilities as predicted and ``calibrated``
    (with few rows above 0 even for a perfect model); ``coverage``: how often sets or intervals held
    the truth, with ``low`` and ``high``, and ``positives``, of those whose label is yes; ``size``:
    classes in a set, or an interval's width.
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

    rows = np.flatnonzero(cohort.labelled[task.name] & (cohort.split == TEST))
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
    }
