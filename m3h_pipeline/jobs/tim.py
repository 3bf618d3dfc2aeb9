"""Task interaction: how the metric of one task changes when another is learned with it, and what
follows from that.

Configuration: ``cohort``, ``single_task`` and ``joint`` (folders), ``tasks``, ``training``,
``model`` and ``tim`` (sections of m3h.toml), ``to``. The models of the training seed are used as
they are. Writes ``tim.json`` and, a row a cell, ``tim.parquet``.
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

from m3h_core import Cohort, FittedModel, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN
from m3h_core.tim import (
    TaskSetEvaluator,
    leave_one_task_out,
    measure_interaction,
    shrink_network,
    task_groups,
)
from m3h_pipeline.errors import InputError
from m3h_pipeline.evaluation.scores import explain_no_claim
from m3h_pipeline.jobs.job import FACTS, Log, run_job
from m3h_pipeline.jobs.progress import Progress
from m3h_pipeline.jobs.settings import count_workers, fit_config
from m3h_pipeline.state.data_files import write_json


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
        interaction = measure_interaction(
            evaluator, settings["method"], settings["max_models"] or None, settings["fdr"]
        )
    except ValueError as error:
        raise InputError(f"m3h.toml: [tim] {error}") from error
    groups = None
    left_out = None
    if interaction.unit == "metric" and settings["groups"] > 1:
        log("task interaction: the tasks in groups")
        groups = task_groups(model_evaluator, interaction, settings["groups"]).to_dict()
    if interaction.unit == "metric" and settings["leave_out"]:
        log("task interaction: the joint model without single tasks")
        left_out = leave_one_task_out(evaluator, interaction, settings["leave_out"]).to_dict()
    hidden = [
        i for i, task in enumerate(evaluator.tasks) if explain_no_claim(evaluator.cohort, task)
    ]
    record: dict[str, Any] = interaction.to_dict() | {
        "network": settings["network"],
        "n": [
            None if i in hidden else _count_scored(evaluator.cohort, task)
            for i, task in enumerate(evaluator.tasks)
        ],
    }
    for part in filter(None, (record, left_out)):
        for name in ("matrix", "low", "high", "q"):
            for i in hidden if name in part else ():
                part[name][i] = [None] * len(part["tasks"])
    for i in hidden:
        record["evidence"][i] = [False] * len(evaluator.tasks)
        record["single"][i] = record["joint"][i] = None
    return record | {"groups": groups, "leave_one_out": left_out}


def _count_scored(cohort: Cohort, task: TaskSpec) -> int:
    rows = cohort.split == TEST
    return int((rows if task.problem == "clustering" else rows & cohort.labelled[task.name]).sum())


def cell_table(record: dict[str, Any]) -> pl.DataFrame:
    """The matrix as a table, a row a cell off the diagonal."""
    names = record["tasks"]
    per_cell = ("matrix", "low", "high", "q", "evidence", "source")
    rows = []
    for i, task in enumerate(names):
        of_task = {name: record[name][i] for name in ("single", "joint", "n")}
        for j, other in enumerate(names):
            if i != j:
                row = {
                    "task": task,
                    "other": other,
                    "method": record["method"],
                    "unit": record["unit"],
                }
                of_cell = {name: record[name][i][j] for name in per_cell}
                rows.append(row | of_cell | of_task)
    numbers = dict.fromkeys(("matrix", "low", "high", "q", "single", "joint"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides={**numbers, "n": pl.Int64}).rename(
        {"matrix": "value"}
    )


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        started = time.monotonic()
        training = config["training"]
        settings = config["tim"]
        to = Path(config["to"])
        # Of a cross-fitted cohort as the first fold's models saw it, which are used as they are.
        cohort = Cohort.load(config["cohort"]).for_fold(0)
        tasks = most_labelled(
            cohort, [TaskSpec.from_dict(record) for record in config["tasks"]], settings["tasks"]
        )
        seeds = [training["seed"] + i for i in range(settings["seeds"])]
        chunks = to / ".chunks"
        own = fit_config(config)
        network = shrink_network(own) if settings["network"] == "light" else own
        on_progress = Progress("task interaction: models", log)
        workers = count_workers(config)
        if workers > 1:
            # Beside busy workers a second thread of this process, which scores, only stands in
            # their way.
            torch.set_num_threads(1)
        evaluator = TaskSetEvaluator(
            cohort, tasks, network, seeds, resume=chunks, on_progress=on_progress, workers=workers
        )
        model_evaluator = evaluator if network == own else evaluator.for_network(own, seeds[:1])
        trained = [
            Path(config["joint"]) / "model" / "0",
            *(Path(config["single_task"]) / "models" / task.name / "0" for task in tasks),
        ]
        model_evaluator.reuse(FittedModel.load(folder) for folder in trained)
        record = build_report(evaluator, model_evaluator, settings, log)
        write_json(to / "tim.json", record)
        cell_table(record).write_parquet(to / "tim.parquet")
        shutil.rmtree(chunks, ignore_errors=True)
        off = [
            source
            for i, row in enumerate(record["source"])
            for j, source in enumerate(row)
            if i != j
        ]
        facts = {
            "tasks": len(tasks),
            "models": evaluator.trained,
            "retrained cells": off.count("retrained"),
            "estimated cells": off.count("estimated"),
            "effects that survive": sum(map(sum, record["evidence"])),
        }
        write_json(to / FACTS, facts | {"seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
