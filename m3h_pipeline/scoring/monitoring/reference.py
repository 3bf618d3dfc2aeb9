"""The reference that a model is given at its registration: what its training samples were like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core import Cohort, load_model
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN
from m3h_pipeline.evaluation.scores import load_calibrator
from m3h_pipeline.scoring.monitoring.bins import summarise
from m3h_pipeline.scoring.monitoring.observations import observe, to_one_score
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.state.layout import PREDICTIONS

REFERENCE = "reference.json"
FORMAT = 1
_PERFORMANCE = ("metric", "value", "low", "high", "n")


def write_reference(
    inputs: Path, cohort: Path, ensemble: Path, metrics: Mapping[str, Any], to: Path
) -> None:
    """Write ``reference.json`` of a model: from its inputs, its cohort, its own predictions and its
    metrics.json.
    """
    from safetensors.numpy import load_file

    loaded = Cohort.load(cohort)
    tasks = load_model(ensemble / "model").tasks
    scores = load_calibrator(ensemble, loaded).calibrated(load_file(ensemble / PREDICTIONS))
    samples = pl.read_parquet(inputs / "samples.parquet")
    train = samples.filter(pl.col("split") == TRAIN)
    train_subjects = train["subject_id"].to_numpy()
    observations = observe(inputs, train["sample_id"])
    unseen = np.union1d(loaded.rows(CALIBRATION), loaded.rows(TEST))
    unseen_subjects = loaded.subjects[unseen]
    unseen_scores = {task.name: to_one_score(task, scores[task.name][unseen]) for task in tasks}
    reference = {
        "format": FORMAT,
        "tasks": [task.to_dict() for task in tasks],
        "features": [
            summarise(*key, values, train_subjects) for key, values in observations.items()
        ],
        "scores": [
            summarise(task, "scores", values, unseen_subjects)
            for task, values in unseen_scores.items()
        ],
        "performance": {
            record["task"]: _select_performance(record)
            for record in metrics["tasks"]
            if record["claimed"]
        },
    }
    write_json(to / REFERENCE, reference)


def _select_performance(record: Mapping[str, Any]) -> dict[str, Any]:
    return {field: record[field] for field in _PERFORMANCE}
