"""How good the champion is on labels that have arrived since its registration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core import Cohort, ObservedCoverage, TaskSpec
from m3h_core.data.cohort import TEST
from m3h_core.metrics import Score, evaluate_predictions
from m3h_pipeline.config import MonitoringConfig
from m3h_pipeline.evaluation.scores import explain_no_claim
from m3h_pipeline.scoring.monitoring.comparisons import round_significant
from m3h_pipeline.sources.tasks_file import read_tasks

# Standard deviations that a 95% interval spans.
_WIDTH = 2 * 1.96


def judge_performance(
    scored: pl.DataFrame,
    labels: Path,
    learned: Cohort,
    tasks: Sequence[TaskSpec],
    reference: Mapping[str, Mapping[str, Any]],
    config: MonitoringConfig,
    bootstrap: int,
) -> list[dict[str, Any]]:
    """Each task's score and coverage on labels that have arrived since, beside its score at the
    registration.
    """
    columns = ["sample_id", "task", "value"]
    label_rows = pl.read_parquet(labels / "labels.parquet", columns=columns)
    tonight = {task.name: task for task in read_tasks(labels)}
    records = []
    for task in tasks:
        if task.problem == "clustering" or task.name not in reference:
            continue
        if tonight.get(task.name) != task:
            continue  # another task goes by its name now
        new_labels = _select_new_labels(task, label_rows, learned)
        records.append(_judge_task(task, scored, new_labels, reference[task.name], bootstrap))
    return _mark_falls([record for record in records if record is not None], config)


def _select_new_labels(task: TaskSpec, labels: pl.DataFrame, learned: Cohort) -> pl.DataFrame:
    """The labels of a task that were not there when the champion learned."""
    was_labelled = np.asarray(learned.labelled[task.name])
    labelled_before = [
        sample
        for sample, labelled in zip(learned.sample_ids, was_labelled, strict=True)
        if labelled
    ]
    return labels.filter(
        (pl.col("task") == task.name) & ~pl.col("sample_id").is_in(labelled_before)
    )


def select_scores(task: TaskSpec, scored: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """The samples [n] that have scores of a task, and their predictions [n], or [n, C] for several
    classes.
    """
    rows = scored.filter(pl.col("task") == task.name)
    if task.problem not in ("multiclass", "clustering"):
        return rows["sample_id"].to_list(), rows["prediction"].to_numpy()
    classes = [
        rows.filter(pl.col("class") == label).sort("sample_id") for label in task.class_names
    ]
    predictions = [of_class["prediction"].to_numpy() for of_class in classes]
    return classes[0]["sample_id"].to_list(), np.column_stack(predictions)


def _judge_task(
    task: TaskSpec,
    scored: pl.DataFrame,
    labels: pl.DataFrame,
    reference: Mapping[str, Any],
    bootstrap: int,
) -> dict[str, Any] | None:
    """One task on its new labels; None where these are too few to be scored."""
    targets = labels.select("sample_id", target=pl.col("value"))
    rows = scored.join(targets, on="sample_id").sort("sample_id")
    samples, predictions = select_scores(task, rows)
    of_task = rows.filter(pl.col("task") == task.name)
    per_sample = of_task.unique("sample_id", keep="first", maintain_order=True)
    y_true = per_sample["target"].to_numpy()
    cohort = Cohort(
        sample_ids=samples,
        split=np.full(len(samples), TEST),
        embeddings={},
        present={},
        labels={task.name: y_true},
        labelled={task.name: np.ones(len(samples), dtype=bool)},
        subject_ids=per_sample["subject_id"].to_list(),
    )
    if explain_no_claim(cohort, task):
        return None
    scores = evaluate_predictions(cohort, [task], {task.name: predictions}, n_bootstrap=bootstrap)
    score = scores[task.name]
    return {
        "task": task.name,
        "metric": score.metric,
        "n": score.n,
        "then": reference["value"],
        **{field: round(getattr(score, field), 4) for field in ("value", "low", "high")},
        **_measure_coverage(task, per_sample, y_true),
        "p": _chance_of_fall(score, reference),
    }


def _measure_coverage(task: TaskSpec, rows: pl.DataFrame, y_true: np.ndarray) -> dict[str, Any]:
    """How often sets or intervals held the new labels; nulls for a model of a format that had
    none.
    """
    stated = rows["coverage"].max()
    if stated is None:
        return {"stated": None, "coverage": None, "coverage_high": None}
    if task.problem == "regression":
        columns = [
            rows["low"].fill_null(-math.inf).to_numpy(),
            rows["high"].fill_null(math.inf).to_numpy(),
        ]
    else:
        classes = task.class_names or ("no", "yes")
        columns = [rows["set"].list.contains(label).to_numpy() for label in classes]
    coverage = ObservedCoverage.of(
        task, y_true, np.column_stack(columns), rows["subject_id"].to_numpy()
    )
    return {
        "stated": stated,
        "coverage": round(coverage.coverage, 4),
        "coverage_high": round(coverage.high, 4),
    }


def _chance_of_fall(now: Score, reference: Mapping[str, Any]) -> float:
    """The probability of a score so far below the earlier one, if nothing had changed: one-sided,
    of normal errors.
    """
    from scipy.stats import norm

    error = math.hypot(now.high - now.low, reference["high"] - reference["low"]) / _WIDTH
    if not error > 0:
        return 1.0
    return float(norm.cdf((now.value - reference["value"]) / error))


def _mark_falls(records: list[dict[str, Any]], config: MonitoringConfig) -> list[dict[str, Any]]:
    from scipy.stats import false_discovery_control

    p_values = [record.pop("p") for record in records]
    q_values = false_discovery_control(p_values) if records else []
    for record, q in zip(records, q_values, strict=True):
        fell = bool(q < config.fdr and record["then"] - record["value"] > config.drop)
        uncovered = _is_uncovered(record, config.drop)
        del record["coverage_high"]
        record |= {"q": round_significant(q), "fell": fell, "uncovered": uncovered}
    return records


def _is_uncovered(record: Mapping[str, Any], drop: float) -> bool:
    """Whether fewer labels lie within what was said than was stated, beyond chance and ``drop``."""
    stated = record["stated"]
    if stated is None:
        return False
    return bool(record["coverage_high"] < stated and stated - record["coverage"] > drop)
