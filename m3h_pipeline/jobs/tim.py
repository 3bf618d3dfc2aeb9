"""Task interaction: how the metric of one task changes when another is learned with it.

Configuration: ``cohort`` and ``single_task`` (folders), ``tasks``, ``training`` and ``tim`` (sections of m3h.toml),
``to``. The single-task models of the training seed are used as they are. Writes ``tim.json``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m3h_core import Cohort, FittedModel, TaskSpec, task_interaction
from m3h_core.cohort import TEST, TRAIN
from m3h_pipeline.jobs import FACTS, every, fit_config, job
from m3h_pipeline.storage import write_json


def most_labelled(cohort: Cohort, tasks: Sequence[TaskSpec], count: int) -> list[TaskSpec]:
    """The tasks with most to learn from: labelled training rows, of the rarer kind for a binary task.

    A task without both kinds of label in the test split can't be scored, and a clustering task has no labels.
    """
    sizes = {task.name: _effective(cohort, task, TRAIN) for task in tasks if _effective(cohort, task, TEST) > 1}
    ranked = sorted(sizes, key=lambda name: -sizes[name])[:count]
    return [task for task in tasks if task.name in ranked]


def _effective(cohort: Cohort, task: TaskSpec, split: int) -> int:
    if task.problem == "clustering":
        return 0
    known = np.asarray(cohort.labels[task.name])[cohort.labelled[task.name] & (cohort.split == split)]
    return int(min((known == 1).sum(), (known == 0).sum())) if task.problem == "binary" else len(known)


def main() -> None:
    """Entry point."""
    with job() as (config, log):
        started = time.monotonic()
        training, to = config["training"], Path(config["to"])
        cohort = Cohort.load(config["cohort"])
        tasks = most_labelled(
            cohort, [TaskSpec.from_dict(record) for record in config["tasks"]], config["tim"]["tasks"]
        )
        progress = every(5, log)
        interaction = task_interaction(
            cohort,
            tasks,
            method="pairwise",
            config=fit_config(training),
            seeds=tuple(training["seed"] + i for i in range(config["tim"]["seeds"])),
            single_models=[FittedModel.load(Path(config["single_task"]) / "models" / task.name) for task in tasks],
            resume=to / ".chunks",
            on_progress=lambda done, total: progress(f"task interaction: {done} of {total} models"),
        )
        write_json(to / "tim.json", interaction.to_dict())
        write_json(to / FACTS, {"tasks": len(tasks), "seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
