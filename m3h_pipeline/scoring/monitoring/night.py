"""A night: the samples that are new to the champion beside its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core import Cohort, TaskSpec
from m3h_pipeline.config import MonitoringConfig
from m3h_pipeline.scoring.monitoring.comparisons import (
    FEWEST_SAMPLES,
    compare_missing,
    compare_values,
    mark_changes,
)
from m3h_pipeline.scoring.monitoring.observations import observe, to_one_score
from m3h_pipeline.scoring.monitoring.performance import judge_performance, select_scores
from m3h_pipeline.scoring.monitoring.reference import FORMAT, REFERENCE
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_count

FILE = "monitoring.json"


def monitor(
    inputs: Path,
    scores: Path,
    labels: Path,
    learned: Path | None,
    config: MonitoringConfig,
    to: Path,
    bootstrap: int,
) -> dict[str, Any]:
    """Compare tonight with the champion's reference and write ``monitoring.json``; returns its
    content.

    ``scores``: the step that holds scores.parquet and reference.json; ``labels``: the validated
    ones; ``learned``: the cohort that the champion learned from, None where it is no longer there.
    """
    results: dict[str, Any] = {
        "reason": None,
        "new": None,
        "inputs": [],
        "missing": [],
        "scores": [],
        "performance": [],
    }
    reference = read_json(scores / REFERENCE) if (scores / REFERENCE).exists() else None
    results["reason"] = _find_obstacle(reference, learned)
    if reference is not None and learned is not None and results["reason"] is None:
        scored = pl.read_parquet(scores / "scores.parquet")
        tasks = [TaskSpec.from_dict(task) for task in reference["tasks"]]
        results |= _compare_new_samples(inputs, scored.filter("new"), reference, tasks, config)
        results["performance"] = judge_performance(
            scored, labels, Cohort.load(learned), tasks, reference["performance"], config, bootstrap
        )
    write_json(to / FILE, results)
    return results


def _find_obstacle(reference: Mapping[str, Any] | None, learned: Path | None) -> str | None:
    """Why nothing can be compared; None where it can."""
    if reference is None:
        return (
            "there is no champion yet, or one that can't be applied or was registered without a "
            "reference"
        )
    if learned is None:
        return (
            "the snapshot that the champion learned from is no longer here, so nothing counts as "
            "new"
        )
    if reference["format"] != FORMAT:
        return (
            f"the champion's reference is of format {reference['format']}, this version reads "
            f"{FORMAT}"
        )
    return None


def _compare_new_samples(
    inputs: Path,
    new: pl.DataFrame,
    reference: Mapping[str, Any],
    tasks: Sequence[TaskSpec],
    config: MonitoringConfig,
) -> dict[str, Any]:
    """How many samples are new, and what of them was compared; or why it was not."""
    samples = new["sample_id"].unique().sort()
    n_new = len(samples) if len(samples) >= MIN_GROUP_SIZE else None
    if len(samples) < FEWEST_SAMPLES:
        few = format_count(len(samples)) if len(samples) else "no"
        reason = f"{few} samples are new to the champion, fewer than the {FEWEST_SAMPLES} it takes"
        return {"new": n_new, "reason": reason}
    subject_of = dict(zip(new["sample_id"], new["subject_id"], strict=True))
    subjects = np.array([subject_of[sample] for sample in samples])
    observations = observe(inputs, samples)
    absent = pl.Series([None] * len(samples), dtype=pl.Float64)
    features = [
        (feature, observations.get((feature["name"], feature["modality"]), absent))
        for feature in reference["features"]
    ]
    values = [compare_values(*pair, subjects) for pair in features]
    missing = [compare_missing(*pair, subjects) for pair in features]
    return {
        "new": n_new,
        "inputs": mark_changes(values, config),
        "missing": mark_changes(missing, config),
        "scores": _compare_scores(new, reference, tasks, subject_of, config),
    }


def _compare_scores(
    new: pl.DataFrame,
    reference: Mapping[str, Any],
    tasks: Sequence[TaskSpec],
    subject_of: Mapping[str, str],
    config: MonitoringConfig,
) -> list[dict[str, Any]]:
    task_of = {task.name: task for task in tasks}
    comparisons = []
    for summary in reference["scores"]:
        if summary["name"] not in task_of:
            continue
        task = task_of[summary["name"]]
        samples, scores = select_scores(task, new)
        subjects = np.array([subject_of[sample] for sample in samples])
        values = to_one_score(task, scores)
        comparisons.append(compare_values(summary, values, subjects))
    return mark_changes(comparisons, config)
