"""Task interaction: how the score of one task changes when another is learned with it, and what
follows from that.

Configuration: ``cohort``, ``single_task`` and ``joint`` (folders), ``tasks``, ``folds`` (of samples
that are drawn), ``training``, ``model`` and ``tim`` (sections of m3h.toml), ``to``. The models of
the training step are used as they are. Writes ``tim.json`` and, a row a cell,
``tim.parquet``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from m3h_core import Cohort, FittedModel, TaskSpec, with_folds
from m3h_core.data.cohort import TEST, TRAIN
from m3h_core.data.folds import draw_subjects
from m3h_core.tim import (
    N_COMPONENTS,
    Progress,
    TaskSetEvaluator,
    leave_one_task_out,
    measure_interaction,
    measure_joint_learning,
    shrink_network,
    task_groups,
)
from m3h_pipeline.errors import InputError
from m3h_pipeline.evaluation.scores import explain_no_claim, hide_small_count
from m3h_pipeline.features.assemble import is_split_by_hash
from m3h_pipeline.jobs import progress
from m3h_pipeline.jobs.job import FACTS, Log, run_job
from m3h_pipeline.jobs.settings import count_workers, fit_config
from m3h_pipeline.state.data_files import write_json

_CHUNKS = ".chunks"


def most_labelled(cohort: Cohort, tasks: Sequence[TaskSpec], count: int) -> list[TaskSpec]:
    """The tasks with most to learn from: labelled training rows, of the rarer kind for a binary
    task. All for 0.
    """
    sizes = {task.name: _count_effective(cohort, task) for task in tasks}
    ranked = sorted(sizes, key=lambda name: -sizes[name])[: count or len(tasks)]
    return [task for task in tasks if task.name in ranked]


def _count_effective(cohort: Cohort, task: TaskSpec) -> int:
    if task.problem == "clustering":
        return 0
    labels = np.asarray(cohort.labels[task.name])[
        cohort.labelled[task.name] & (cohort.split == TRAIN)
    ]
    return (
        int(min((labels == 1).sum(), (labels == 0).sum()))
        if task.problem == "binary"
        else len(labels)
    )


def select_samples(cohort: Cohort, most: int, folds: int) -> Cohort:
    """At most so many samples, of whole patients. What was too large to be cross-fitted then is."""
    if len(cohort) <= most:
        return cohort
    drawn = cohort.take(draw_subjects(cohort.subjects, most))
    return with_folds(drawn, folds) if is_split_by_hash(drawn) else drawn


def build_report(
    evaluator: TaskSetEvaluator,
    model_evaluator: TaskSetEvaluator,
    settings: dict[str, Any],
    log: Log,
) -> dict[str, Any]:
    """What ``tim.json`` holds; rows of tasks with too few labels to be judged are empty, as their
    scores are nowhere shown.
    """
    try:
        interaction = measure_interaction(evaluator, settings["method"], settings["fdr"])
    except ValueError as error:
        raise InputError(f"m3h.toml: [tim] {error}") from error
    groups = None
    left_out = None
    # Where no task acts on another there is nothing to group by and none to miss.
    has_effects = bool(interaction.evidence_TT.any())
    if has_effects and settings["groups"] > 1:
        log("task interaction: the tasks in groups")
        groups = task_groups(model_evaluator, interaction, settings["groups"]).to_dict()
    if has_effects and settings["leave_out"]:
        log("task interaction: the joint model without single tasks")
        left_out = leave_one_task_out(evaluator, interaction, settings["leave_out"]).to_dict()
    record: dict[str, Any] = interaction.to_dict() | {
        "network": settings["network"],
        "joint_learning": measure_joint_learning(model_evaluator, settings["fdr"]).to_dict(),
        "n": [evaluator.count_judged(i) for i in range(len(evaluator.tasks))],
        "groups": groups,
        "leave_one_out": left_out,
    }
    for i, task in enumerate(evaluator.tasks):
        if explain_no_claim(evaluator.cohort, task):
            _hide_task(record, i)
    return record


def average_attention(joint: Path, cohort: Cohort) -> dict[str, Any] | None:
    """What each task reads from each in the joint model of the training step, ``weights`` [T, T]:
    its share of attention, averaged over the patients that a fold's model did not see. None where
    tasks don't attend to each other or too few patients are judged.

    Of a task with too few labels to be judged nothing is said here either.
    """
    total = 0.0
    judged: list[str] = []
    for fold in range(cohort.n_folds):
        model = FittedModel.load(joint / "model" / str(fold))
        if not model.config.attention:
            return None
        of_fold = cohort.for_fold(fold)
        rows = of_fold.rows(TEST)
        total = total + model.attention(of_fold, rows) * len(rows)
        judged += of_fold.subjects[rows].tolist()
    if hide_small_count(len(set(judged))) is None:
        return None
    weights = np.round(total / len(judged), 6).tolist()
    for i, task in enumerate(model.tasks):
        if explain_no_claim(cohort, task):
            weights[i] = [None] * len(model.tasks)
    return {"tasks": [task.name for task in model.tasks], "weights": weights}


def _hide_task(record: dict[str, Any], i: int) -> None:
    """Take out all that is said of how well a task was predicted."""
    size = len(record["tasks"])
    for name in ("matrix", "low", "high", "gain", "q"):
        record[name][i] = [None] * size
    record["evidence"][i] = [False] * size
    for name in ("single", "n"):
        record[name][i] = None
    joint_learning = record["joint_learning"]
    for name in ("single", "joint", "change", "low", "high", "gain", "q"):
        joint_learning[name][i] = None
    joint_learning["evidence"][i] = False
    left_out = record["leave_one_out"]
    if left_out:
        for name in ("matrix", "low", "high", "gain"):
            left_out[name][i] = [None] * len(left_out["tasks"])
        left_out["evidence"][i] = [False] * len(left_out["tasks"])


def cell_table(record: dict[str, Any]) -> pl.DataFrame:
    """The matrix as a table, a row a cell off the diagonal."""
    names = record["tasks"]
    per_cell = ("matrix", "low", "high", "gain", "q", "evidence", "stopped")
    rows = []
    for i, task in enumerate(names):
        of_task = {name: record[name][i] for name in ("single", "n")}
        for j, other in enumerate(names):
            if i != j:
                row = {"task": task, "other": other, "method": record["method"]}
                of_cell = {name: record[name][i][j] for name in per_cell}
                rows.append(row | of_cell | of_task)
    numbers = dict.fromkeys(("matrix", "low", "high", "gain", "q", "single"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides={**numbers, "n": pl.Int64}).rename(
        {"matrix": "value"}
    )


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        started = time.monotonic()
        settings = config["tim"]
        to = Path(config["to"])
        cohort = Cohort.load(config["cohort"])
        tasks = most_labelled(
            cohort.for_fold(0),
            [TaskSpec.from_dict(record) for record in config["tasks"]],
            settings["tasks"],
        )
        if count_workers(config) > 1:
            # Beside busy workers a second thread of this process, which scores, only stands in
            # their way.
            torch.set_num_threads(1)
        evaluator, model_evaluator = build_evaluators(config, cohort, tasks, log)
        record = build_report(evaluator, model_evaluator, settings, log)
        record["attention"] = average_attention(Path(config["joint"]), cohort)
        write_json(to / "tim.json", record)
        cell_table(record).write_parquet(to / "tim.parquet")
        shutil.rmtree(to / _CHUNKS, ignore_errors=True)
        facts = {
            "tasks": len(tasks),
            "models": evaluator.trained,
            "pairs stopped early": sum(map(sum, record["stopped"])) // 2,
            "effects that survive": sum(map(sum, record["evidence"])),
        }
        write_json(to / FACTS, facts | {"seconds": round(time.monotonic() - started, 1)})


def build_evaluators(
    config: dict[str, Any], cohort: Cohort, tasks: Sequence[TaskSpec], log: Log
) -> tuple[TaskSetEvaluator, TaskSetEvaluator]:
    """What measures the matrix, and what compares joint models, groups and single-task models: the
    model's own network, with the models of the training step.
    """
    settings = config["tim"]
    own = fit_config(config)
    seeds = [own.seed + i for i in range(settings["seeds"])]
    shared: dict[str, Any] = {
        "resume": Path(config["to"]) / _CHUNKS,
        "progress": Progress(progress.Progress("task interaction: models", log)),
        "workers": count_workers(config),
    }
    model_evaluator = TaskSetEvaluator(cohort, tasks, own, seeds[:1], **shared)
    _reuse_models(config, model_evaluator, tasks)
    if settings["network"] == "model":
        evaluator = TaskSetEvaluator(cohort, tasks, own, seeds, **shared)
        _reuse_models(config, evaluator, tasks)
        return evaluator, model_evaluator
    samples = select_samples(cohort, settings["samples"], config["folds"])
    evaluator = TaskSetEvaluator(
        samples, tasks, shrink_network(own), seeds, n_components=N_COMPONENTS, **shared
    )
    return evaluator, model_evaluator


def _reuse_models(
    config: dict[str, Any], evaluator: TaskSetEvaluator, tasks: Sequence[TaskSpec]
) -> None:
    """Take the joint and the single-task models of the training step."""
    singles = Path(config["single_task"]) / "models"
    for fold in range(len(evaluator.folds)):
        folders = [Path(config["joint"]) / "model" / str(fold)]
        folders += [singles / task.name / str(fold) for task in tasks]
        evaluator.reuse((FittedModel.load(folder) for folder in folders), fold)


if __name__ == "__main__":
    main()
