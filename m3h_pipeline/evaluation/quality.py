"""metrics.json: the joint model, the single-task models and the trees, scored on the same test
samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from m3h_pipeline.evaluation import claims
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, TaskSpec

# A score on fewer is noise.
FEWEST_TO_SCORE = 30


def quality(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    *,
    snapshot: str,
    bootstrap: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of metrics.json, and what it comes to: the ``comparisons`` of detail.json.

    ``predictions``: {"joint" | "single_task" | "trees": {task: [N] or [N, classes]}}. Intervals are
    95%, from resampling the test split's subjects; a difference is joint minus the other arm on the
    same resamples, and so is the mean of the differences. A task with too few test labels to be
    scored is not claimed: its values are null and ``reason`` says why.
    """
    from m3h_core.cohort import TEST
    from m3h_core.metrics import (
        Resamples,
        evaluate_predictions,
        interval,
        primary_metric,
        primary_replicates,
    )

    draws = Resamples(cohort, TEST, bootstrap, seed=0)
    replicates = {
        arm: {
            task.name: primary_replicates(cohort, task, values[task.name], draws)
            for task in tasks
            if task.name in values
        }
        for arm, values in predictions.items()
    }
    joint_scores = evaluate_predictions(
        cohort, tasks, predictions["joint"], split=TEST, n_bootstrap=1
    )
    gaps: dict[str, dict[str, np.ndarray]] = {against: {} for against in claims.FIELDS}
    records = []
    for task in tasks:
        reason = too_few(cohort, task)
        joint = joint_scores[task.name]
        low, high = interval(replicates["joint"][task.name])
        shown: dict[str, Any] = {"value": joint.value, "low": low, "high": high}
        differences: dict[str, Any] = {}
        for against, field in claims.FIELDS.items():
            shown[against] = None
            differences |= dict.fromkeys((field, f"{field}_low", f"{field}_high"))
            if task.name not in replicates[against]:
                continue
            shown[against] = primary_metric(cohort, task, predictions[against][task.name])
            gap = replicates["joint"][task.name] - replicates[against][task.name]
            differences[field] = joint.value - shown[against]
            differences[f"{field}_low"], differences[f"{field}_high"] = interval(gap)
            gaps[against][task.name] = gap
        records.append(
            {
                "task": task.name,
                "problem": task.problem,
                "department": task.department,
                "metric": joint.metric,
                "n": _published(joint.n),
                "positives": _published(_positives(cohort, task)),
                "claimed": reason is None,
                "reason": reason,
            }
            | {
                name: None if reason else rounded(value)
                for name, value in (shown | differences).items()
            }
        )
    comparisons = {
        against: claims.comparison(
            records, against, _mean_differences(records, against, gaps[against])
        )
        for against in claims.FIELDS
    }
    return {"snapshot": snapshot, "tasks": records}, comparisons


def _mean_differences(
    records: Sequence[Mapping[str, Any]], against: str, gaps: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The mean difference over the tasks of each metric, with its interval; ``gaps``: {task:
    differences [R]}.
    """
    from m3h_core.metrics import interval

    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record[claims.FIELDS[against]] is not None and np.isfinite(gaps[record["task"]]).any():
            by_metric.setdefault(claims.metric_family(record["metric"]), []).append(record)
    means = []
    for metric, members in by_metric.items():
        # A rare class may be missing in a resample: its task is then left out of that resample's
        # mean.
        stacked = np.ma.masked_invalid([gaps[record["task"]] for record in members])
        low, high = interval(stacked.mean(axis=0).filled(np.nan))
        value = np.mean([record[claims.FIELDS[against]] for record in members])
        means.append(
            {
                "metric": metric,
                "tasks": len(members),
                "value": rounded(float(value)),
                "low": rounded(low),
                "high": rounded(high),
            }
        )
    return means


def _test_labels(cohort: Cohort, task: TaskSpec) -> np.ndarray:
    from m3h_core.cohort import TEST

    return np.asarray(cohort.labels[task.name])[cohort.labelled[task.name] & (cohort.split == TEST)]


def _positives(cohort: Cohort, task: TaskSpec) -> int | None:
    return int((_test_labels(cohort, task) == 1).sum()) if task.problem == "binary" else None


def too_few(cohort: Cohort, task: TaskSpec) -> str | None:
    """Why a task can't be claimed, or None where it can."""
    from m3h_core.cohort import TEST

    if task.problem == "clustering":
        n = int((cohort.split == TEST).sum())
        return None if n >= FEWEST_TO_SCORE else f"fewer than {FEWEST_TO_SCORE} test samples"
    labels = _test_labels(cohort, task)
    if len(labels) < FEWEST_TO_SCORE:
        return f"fewer than {FEWEST_TO_SCORE} labelled test samples"
    if task.problem in ("binary", "multiclass"):
        large = sum(
            int((labels == c).sum()) >= MIN_GROUP_SIZE
            for c in range(2 if task.problem == "binary" else task.n_outputs)
        )
        if large < 2:
            return f"fewer than {MIN_GROUP_SIZE} positives or negatives among the test samples"
    return None


def _published(count: int | None) -> int | None:
    """A count of patients, or None where it is too small to publish."""
    return None if count is None or count < MIN_GROUP_SIZE else count


def rounded(value: float | None) -> float | None:
    """Six digits: the same on every machine of a kind; None where there is no number."""
    return None if value is None or not np.isfinite(value) else round(float(value), 6)


def trust(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Mapping[str, np.ndarray],
    calibrator: Calibrator,
) -> list[dict[str, Any]]:
    """Whether the joint model's scores can be trusted, on the test split: a record a task that has
    enough labels there.

    ``error``: the expected calibration error of its probabilities as predicted and ``calibrated``
    (with few rows above 0 even for a perfect model); ``coverage``: how often sets or intervals held
    the truth, with ``low`` and ``high``, and ``positives``, of those whose label is yes; ``size``:
    classes in a set, or an interval's width.
    """
    from m3h_core import ObservedCoverage, evaluate_predictions
    from m3h_core.cohort import TEST

    tasks = [
        task for task in tasks if task.problem != "clustering" and too_few(cohort, task) is None
    ]
    known = {task.name: predictions[task.name] for task in tasks}
    mapped = calibrator.calibrated(known)
    said = calibrator.sets(known) | calibrator.intervals(known)
    errors = [
        {
            name: score.others.get("ECE")
            for name, score in evaluate_predictions(cohort, tasks, p, TEST, 1).items()
        }
        for p in (known, mapped)
    ]
    records = []
    for task in tasks:
        rows = np.flatnonzero(cohort.labelled[task.name] & (cohort.split == TEST))
        target = np.asarray(cohort.labels[task.name])[rows]
        held = ObservedCoverage.of(task, target, said[task.name][rows], cohort.subjects[rows])
        yes = target == 1
        has_yes = task.problem == "binary" and yes.sum() >= MIN_GROUP_SIZE
        positives = (
            ObservedCoverage.of(task, target[yes], said[task.name][rows][yes]).coverage
            if has_yes
            else None
        )
        numbers = {
            "error": errors[0][task.name], "calibrated": errors[1][task.name], "coverage": held.coverage,
            "low": held.low, "high": held.high, "size": held.size, "positives": positives,
        }  # fmt: skip
        records.append(
            {"task": task.name, "n": held.n}
            | {name: rounded(value) for name, value in numbers.items()}
        )
    return records


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
    and the arms'.

    ``subsets``: the folder of the models that were trained on subsets of the modalities, where that
    was asked for.
    """
    from safetensors.numpy import load_file

    from m3h_core import Calibrator, Cohort, FittedModel
    from m3h_pipeline.evaluation.detail import detail

    loaded = Cohort.load(cohort)
    tasks = read_tasks(cohort)
    predictions = {
        arm: load_file(folder / "predictions.safetensors") for arm, folder in arms.items()
    }
    metrics, comparisons = quality(
        loaded, tasks, predictions, snapshot=snapshot, bootstrap=bootstrap
    )
    write_json(to / "metrics.json", metrics)
    calibrator = Calibrator.load(arms["joint"] / "calibration")
    trusted = trust(loaded, tasks, predictions["joint"], calibrator)
    write_json(to / "trust.json", {"coverage": calibrator.coverage, "tasks": trusted})
    joint = predictions["joint"]
    mapped = calibrator.calibrated(
        {name: said for name, said in joint.items() if name in calibrator.about}
    )
    model = FittedModel.load(arms["joint"] / "model")
    retrained = load_file(subsets / "predictions.safetensors") if subsets else None
    described = detail(loaded, tasks, joint, {**joint, **mapped}, model, retrained)
    write_json(to / "detail.json", {"comparisons": comparisons, **described})
    _long_form(loaded, tasks, joint).write_parquet(to / "predictions.parquet")
    claimed = sum(record["claimed"] for record in metrics["tasks"])
    return {"tasks": len(tasks), "claimed": claimed, **claims.facts(comparisons)}


def _long_form(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Mapping[str, np.ndarray]
) -> pl.DataFrame:
    """A row a sample, task and class: sample_id, task, class, prediction, target, split."""
    parts = []
    for task in tasks:
        values = predictions[task.name]
        columns = (
            {None: values}
            if values.ndim == 1
            else {
                name: values[:, i]
                for i, name in enumerate(task.class_names or map(str, range(values.shape[1])))
            }
        )
        known = task.name in cohort.labels
        target = (
            np.where(cohort.labelled[task.name], cohort.labels[task.name], np.nan)
            if known
            else None
        )
        for name, column in columns.items():
            parts.append(
                pl.DataFrame(
                    {
                        "sample_id": list(cohort.sample_ids),
                        "task": [task.name] * len(cohort),
                        "class": pl.Series([name] * len(cohort), dtype=pl.String),
                        "prediction": np.asarray(column, dtype=np.float64),
                        "target": target if target is not None else np.full(len(cohort), np.nan),
                        "split": cohort.split,
                    }
                ).with_columns(pl.col("target").fill_nan(None))
            )
    return pl.concat(parts)
