"""metrics.json: the model that is shipped, the same mixture with single-task networks, the joint
networks and the trees alone, scored on the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.scores import (
    Predictions,
    explain_no_claim,
    hide_small_count,
    round_value,
    select_test_labels,
)

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.metrics import Resamples, Score


def compare_arms(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Mapping[str, Predictions],
    *,
    snapshot: str,
    bootstrap: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of metrics.json, and what it comes to: the ``comparisons`` of detail.json.

    ``predictions``: {"ensemble" | "joint" | "single_task" | "trees": {task: [N] or [N, classes]}},
    "ensemble" of the shipped model. Intervals are 95%, from resampling the subjects that are
    judged; a difference is shipped minus the other on the same resamples, and so is the mean of the
    differences. A task with too few labels to be scored is not claimed: its values are null
    and ``reason`` says why.
    """
    from m3h_core.data.cohort import TEST
    from m3h_core.metrics import Resamples, evaluate_predictions

    draws = Resamples(cohort, TEST, bootstrap, seed=0)
    replicates = {
        arm: _replicate(cohort, tasks, predictions[arm], draws)
        for arm in ("ensemble", *claims.FIELDS)
    }
    scores = evaluate_predictions(cohort, tasks, predictions["ensemble"], split=TEST, n_bootstrap=1)
    records = [
        _describe_task(cohort, task, scores[task.name], predictions, replicates) for task in tasks
    ]
    comparisons = {}
    for against in claims.FIELDS:
        gaps = {
            name: replicates["ensemble"][name] - values
            for name, values in replicates[against].items()
        }
        means = _average_differences(records, against, gaps)
        comparisons[against] = claims.summarize_comparison(records, against, means)
    return {"snapshot": snapshot, "tasks": records}, comparisons


def _replicate(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions, draws: Resamples
) -> dict[str, np.ndarray]:
    """Task -> its primary metric on each resample [R], of the tasks that were predicted."""
    from m3h_core.metrics import primary_replicates

    return {
        task.name: primary_replicates(cohort, task, predictions[task.name], draws)
        for task in tasks
        if task.name in predictions
    }


def _describe_task(
    cohort: Cohort,
    task: TaskSpec,
    shipped: Score,
    predictions: Mapping[str, Predictions],
    replicates: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """The record of one task in metrics.json."""
    from m3h_core.metrics import interval, primary_metric

    low, high = interval(replicates["ensemble"][task.name])
    values: dict[str, Any] = {
        "value": shipped.value,
        "low": low,
        "high": high,
        "joint": primary_metric(cohort, task, predictions["joint"][task.name]),
    }
    differences: dict[str, Any] = {}
    for against, field in claims.FIELDS.items():
        values[against] = None
        differences |= dict.fromkeys((field, f"{field}_low", f"{field}_high"))
        if task.name in replicates[against]:
            values[against] = primary_metric(cohort, task, predictions[against][task.name])
            gap = replicates["ensemble"][task.name] - replicates[against][task.name]
            gap_low, gap_high = interval(gap)
            differences[field] = shipped.value - values[against]
            differences[f"{field}_low"] = gap_low
            differences[f"{field}_high"] = gap_high
    reason = explain_no_claim(cohort, task)
    record: dict[str, Any] = {
        "task": task.name,
        "problem": task.problem,
        "department": task.department,
        "metric": shipped.metric,
        "n": hide_small_count(shipped.n),
        "positives": hide_small_count(_count_positives(cohort, task)),
        "claimed": reason is None,
        "reason": reason,
        "evaluation": "test" if cohort.fold is None else "cross-fitted",
    }
    for name, value in (values | differences).items():
        record[name] = None if reason else round_value(value)
    return record


def _count_positives(cohort: Cohort, task: TaskSpec) -> int | None:
    if task.problem != "binary":
        return None
    return int((select_test_labels(cohort, task) == 1).sum())


def _average_differences(
    records: Sequence[Mapping[str, Any]], against: str, gaps: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The mean difference over the tasks of each metric, with its interval; ``gaps``: {task:
    differences [R]}.
    """
    from m3h_core.metrics import interval

    field = claims.FIELDS[against]
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record[field] is not None and np.isfinite(gaps[record["task"]]).any():
            by_metric.setdefault(claims.get_metric_family(record["metric"]), []).append(record)
    means = []
    for metric, members in by_metric.items():
        # A rare class may be missing in a resample: its task is then left out of that resample's
        # mean.
        stacked = np.ma.masked_invalid([gaps[record["task"]] for record in members])
        low, high = interval(stacked.mean(axis=0).filled(np.nan))
        value = np.mean([record[field] for record in members])
        means.append(
            {
                "metric": metric,
                "tasks": len(members),
                "value": round_value(float(value)),
                "low": round_value(low),
                "high": round_value(high),
            }
        )
    return means
