"""detail.json: what stands behind the one number of a task, and behind the model's, on the samples
that it is judged by.

Curves and thresholds of each task, subgroups, what each modality adds, and whether there are
phenotypes. Groups of fewer than 10 patients are nowhere described. Intervals are 95%: of scores
from resampling subjects, of shares by Wilson, with the rows of a patient grouped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.evaluation.curves import describe_curves, has_curves
from m3h_pipeline.evaluation.modalities import describe_modalities
from m3h_pipeline.evaluation.phenotypes import describe_phenotypes
from m3h_pipeline.evaluation.scores import Predictions, explain_no_claim
from m3h_pipeline.evaluation.subgroups import describe_subgroups

if TYPE_CHECKING:
    from m3h_core import Cohort, EnsembleModel, TaskSpec

# Resamples for the many scores of subgroups and modalities.
_RESAMPLES = 200


def describe_detail(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Predictions,
    calibrated: Predictions,
    model: EnsembleModel,
    retrained: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The content of detail.json.

    ``predictions`` are the model's for every row of the cohort, ``calibrated`` the same after
    calibration; ``retrained``: those of models trained on subsets of the modalities, named as the
    job "train" does. Curves, subgroups and modalities hold the tasks that have enough labels to
    be claimed.
    """
    from m3h_core.metrics import Resamples

    phenotypes = [
        describe_phenotypes(cohort.for_fold(0), task, predictions[task.name], tasks)
        for task in tasks
        if task.problem == "clustering" and explain_no_claim(cohort, task) is None
    ]
    # From here on only what is judged is looked at.
    rows = cohort.rows(TEST)
    cohort = cohort.take(rows)
    predictions = _take_rows(predictions, rows)
    calibrated = _take_rows(calibrated, rows)
    retrained = _take_rows(retrained or {}, rows)
    claimed = [task for task in tasks if explain_no_claim(cohort, task) is None]
    supervised = [task for task in claimed if task.problem != "clustering"]
    draws = Resamples(cohort, TEST, _RESAMPLES, seed=0)
    return {
        "curves": {
            task.name: describe_curves(cohort, task, calibrated[task.name])
            for task in claimed
            if has_curves(task)
        },
        "subgroups": describe_subgroups(cohort, claimed, predictions, draws),
        "modalities": describe_modalities(cohort, supervised, model, retrained, draws),
        "phenotypes": phenotypes,
    }


def _take_rows(predictions: Predictions, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in predictions.items()}
