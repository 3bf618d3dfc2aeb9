"""What every record of evaluation is made by: rounding, the fewest labels for a claim, and the
comparison of two variants on the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.state.layout import CALIBRATION, FOLD_CALIBRATION
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec
    from m3h_core.metrics import Resamples

Predictions = Mapping[str, np.ndarray]

# A score on fewer is noise.
MIN_SAMPLES_TO_SCORE = 30


def round_value(value: float | None) -> float | None:
    """Six digits: the same on every machine of a kind; None where there is no number."""
    return None if value is None or not np.isfinite(value) else round(float(value), 6)


def hide_small_count(count: int | None) -> int | None:
    """A count of patients, or None where it is too small to publish."""
    return None if count is None or count < MIN_GROUP_SIZE else count


def select_test_labels(cohort: Cohort, task: TaskSpec) -> np.ndarray:
    """The labels of a task that the model is judged by."""
    return np.asarray(cohort.labels[task.name])[find_judged_rows(cohort, task)]


def find_judged_rows(cohort: Cohort, task: TaskSpec) -> np.ndarray:
    """The row numbers [n] that a task is judged by: the labelled ones that the model did not see;
    of a clustering task all that its one model did not see.
    """
    if task.problem == "clustering":
        return cohort.rows_of_fold(0)
    rows = cohort.rows(TEST)
    return rows[np.asarray(cohort.labelled[task.name])[rows]]


def load_calibrator(ensemble: Path, cohort: Cohort) -> Calibrator | FoldCalibrators:
    """What calibrates the predictions of the cohort's rows that are judged, from the folder of the
    step `ensemble_model`: it has not read their labels.
    """
    from m3h_core import Calibrator, FoldCalibrators

    if cohort.fold is None:
        return Calibrator.load(ensemble / CALIBRATION)
    return FoldCalibrators.load(ensemble / FOLD_CALIBRATION, cohort)


def explain_no_claim(cohort: Cohort, task: TaskSpec) -> str | None:
    """Why nothing can be claimed of a task, or None where it can."""
    if task.problem == "clustering":
        if len(find_judged_rows(cohort, task)) < MIN_SAMPLES_TO_SCORE:
            return f"fewer than {MIN_SAMPLES_TO_SCORE} samples to judge by"
        return None
    labels = select_test_labels(cohort, task)
    if len(labels) < MIN_SAMPLES_TO_SCORE:
        return f"fewer than {MIN_SAMPLES_TO_SCORE} labelled samples to judge by"
    if task.problem in ("binary", "multiclass"):
        n_classes = 2 if task.problem == "binary" else task.n_outputs
        counts = [int((labels == label).sum()) for label in range(n_classes)]
        if sum(count >= MIN_GROUP_SIZE for count in counts) < 2:
            return f"fewer than {MIN_GROUP_SIZE} positives or negatives to judge by"
    return None


def score_variants(
    cohorts: Sequence[Cohort],
    tasks: Sequence[TaskSpec],
    predictions: Sequence[Predictions],
    draws: Resamples,
) -> tuple[np.ndarray, np.ndarray]:
    """Primary metrics [variants, T], and on each resample [variants, T, R]."""
    from m3h_core.metrics import primary_metric, primary_replicates

    values = []
    replicates = []
    for cohort, y_score in zip(cohorts, predictions, strict=True):
        values.append([primary_metric(cohort, task, y_score[task.name]) for task in tasks])
        replicates.append(
            [primary_replicates(cohort, task, y_score[task.name], draws) for task in tasks]
        )
    return np.array(values), np.array(replicates)


def contrast_variants(values: np.ndarray, replicates: np.ndarray) -> dict[str, float | None]:
    """The first of two variants, the second (``others``), and first minus second; from [2] and [2,
    R].
    """
    from m3h_core.metrics import interval

    low, high = interval(replicates[0])
    difference_low, difference_high = interval(replicates[0] - replicates[1])
    return {
        "value": round_value(values[0]),
        "low": round_value(low),
        "high": round_value(high),
        "others": round_value(values[1]),
        "difference": round_value(values[0] - values[1]),
        "difference_low": round_value(difference_low),
        "difference_high": round_value(difference_high),
    }


def count_patients(cohort: Cohort, mask: np.ndarray) -> int | None:
    """Patients of a group, None for fewer than `MIN_GROUP_SIZE`."""
    subjects = cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids
    return hide_small_count(len({subjects[row] for row in np.flatnonzero(mask)}))
