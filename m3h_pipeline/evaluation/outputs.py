"""Write what evaluation comes to: metrics.json, trust.json, detail.json, predictions.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.detail import describe_detail
from m3h_pipeline.evaluation.quality import compare_arms
from m3h_pipeline.evaluation.scores import Predictions, load_calibrator
from m3h_pipeline.evaluation.trust import describe_trust
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.state.layout import PREDICTIONS, SINGLE_TASK, TREES_ALONE

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec


def write_quality(
    cohort: Path,
    arms: Mapping[str, Path],
    to: Path,
    *,
    snapshot: str,
    bootstrap: int,
    subsets: Path | None = None,
) -> dict[str, Any]:
    """Write metrics.json, trust.json, detail.json and predictions.parquet from the cohort's folder
    and those of ``arms``: "ensemble", which is shipped, and "joint".

    ``subsets``: the folder of the models that were trained on subsets of the modalities, where that
    was asked for.
    """
    from safetensors.numpy import load_file

    from m3h_core import Cohort, EnsembleModel

    loaded = Cohort.load(cohort)
    tasks = read_tasks(cohort)
    predictions = {arm: load_file(folder / PREDICTIONS) for arm, folder in arms.items()}
    predictions["single_task"] = load_file(arms["ensemble"] / SINGLE_TASK)
    predictions["trees"] = load_file(arms["ensemble"] / TREES_ALONE)
    shipped = predictions["ensemble"]
    metrics, comparisons = compare_arms(
        loaded, tasks, predictions, snapshot=snapshot, bootstrap=bootstrap
    )
    write_json(to / "metrics.json", metrics)
    calibrator = load_calibrator(arms["ensemble"], loaded)
    trusted = describe_trust(loaded, tasks, shipped, calibrator)
    write_json(to / "trust.json", {"coverage": calibrator.coverage, "tasks": trusted})
    calibrated = calibrator.calibrated(
        {name: values for name, values in shipped.items() if name in calibrator.about}
    )
    model = EnsembleModel.load(arms["ensemble"] / "model")
    retrained = load_file(subsets / PREDICTIONS) if subsets else None
    detail = describe_detail(loaded, tasks, shipped, {**shipped, **calibrated}, model, retrained)
    write_json(to / "detail.json", {"comparisons": comparisons, **detail})
    _to_long_form(loaded, tasks, shipped).write_parquet(to / "predictions.parquet")
    claimed = sum(record["claimed"] for record in metrics["tasks"])
    return {"tasks": len(tasks), "claimed": claimed, **claims.collect_facts(comparisons)}


def _to_long_form(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions
) -> pl.DataFrame:
    """One row per sample, task and class: sample_id, task, class, prediction, target, split, fold.

    Where the cohort is cross-fitted, a prediction is that of the model of the sample's fold, which
    did not see its patient; else the fold is null.
    """
    fold = pl.Series(
        "fold", [None] * len(cohort) if cohort.fold is None else cohort.fold, dtype=pl.Int8
    )
    parts = []
    for task in tasks:
        target = np.full(len(cohort), np.nan)
        if task.name in cohort.labels:
            target = np.where(cohort.labelled[task.name], cohort.labels[task.name], np.nan)
        for name, values in _split_classes(task, predictions[task.name]).items():
            part = pl.DataFrame(
                {
                    "sample_id": list(cohort.sample_ids),
                    "task": [task.name] * len(cohort),
                    "class": pl.Series([name] * len(cohort), dtype=pl.String),
                    "prediction": np.asarray(values, dtype=np.float64),
                    "target": target,
                    "split": cohort.split,
                    "fold": fold,
                }
            )
            parts.append(part.with_columns(pl.col("target").fill_nan(None)))
    return pl.concat(parts)


def _split_classes(task: TaskSpec, values: np.ndarray) -> dict[str | None, np.ndarray]:
    """Class -> its predictions [N]; the class is None where there is only one value a sample."""
    if values.ndim == 1:
        return {None: values}
    names = task.class_names or [str(i) for i in range(values.shape[1])]
    return {name: values[:, i] for i, name in enumerate(names)}
