"""The shipped model against opponents: what was predicted, the scores, and the tables of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from m3h_core import Cohort, TaskSpec
from quality_study.arms import Predictions
from quality_study.markdown import format_number, table
from quality_study.statistics import (
    Scores,
    better_and_worse,
    by_task,
    difference,
    draws_of,
)

MODEL = "the model"
RESAMPLES = 1000
NOTES = """Scores are means over tasks and splits on the test rows: AUROC (of several classes, the
mean over these) or R2. In brackets are 95% intervals of paired differences over resamples of the
patients of all test rows and of the splits, the same for every arm. "The model" is the shipped
ensemble of joint networks and trees; "trees" and "networks" are its parts. Better and worse count
tasks of which it is so at a false discovery rate of 5%. CPU seconds are those of a fit when it was
made; of our own, which are three models each, those of all tasks by the number of these."""


@dataclass
class Predicted:
    """Predictions and CPU seconds of one number of training rows: {arm: {seed: ...}}."""

    predictions: dict[str, dict[int, Predictions]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, seed: int, predictions: Mapping[str, Predictions], seconds: Mapping[str, list[float]]
    ) -> None:
        """Take up some arms on one split; ``seconds``: of each fit."""
        for arm, of_arm in predictions.items():
            self.predictions[arm][seed] = of_arm
            self.seconds[arm] += seconds[arm]


def summarize(
    predicted: Predicted, cohorts: Mapping[int, Cohort], tasks: Sequence[TaskSpec]
) -> dict[str, Any]:
    """All numbers, JSON-ready; an interval is [value, low, high].

    An arm is judged on the tasks that it predicts in every split that the model has; the model is
    compared with it on these.
    """
    seeds = sorted(predicted.predictions[MODEL])
    splits = [cohorts[seed] for seed in seeds]
    draws = draws_of(splits[0], RESAMPLES)
    scores = {}
    for arm, by_seed in predicted.predictions.items():
        of_arm = [by_seed.get(seed, {}) for seed in seeds]
        names = set.intersection(*map(set, of_arm))
        complete = [task for task in tasks if task.name in names]
        if complete:
            scores[arm] = Scores.of(complete, splits, of_arm, draws)
    own = scores[MODEL]
    arms = {}
    for arm, of_arm in scores.items():
        record: dict[str, Any] = {
            "tasks": {
                task.name: float(value)
                for task, value in zip(of_arm.tasks, of_arm.values, strict=True)
            },
            "cpu seconds a fit": float(np.mean(predicted.seconds[arm])),
            "most cpu seconds": float(np.max(predicted.seconds[arm])),
            "groups": _by_group(own, of_arm),
        }
        if arm != MODEL:
            same = own.subset([task.name for task in of_arm.tasks])
            record["by task"] = {
                name: astuple(estimate) for name, estimate in by_task(same, of_arm).items()
            }
            record |= better_and_worse(same, of_arm)
        arms[arm] = record
    return {"splits": seeds, "arms": arms}


def _by_group(own: Scores, of_arm: Scores) -> dict[str, Any]:
    """Means and the model minus the arm, of AUROC, R2 and all tasks that there are."""
    regression = [task.name for task in of_arm.tasks if task.problem == "regression"]
    every = [task.name for task in of_arm.tasks]
    groups = {
        "AUROC": [name for name in every if name not in regression],
        "R2": regression,
        "all": every,
    }
    records = {}
    for group, names in groups.items():
        if names:
            part = of_arm.subset(names)
            records[group] = {
                "tasks": len(names),
                "mean": float(part.values.mean()),
                "model minus": astuple(difference(own.subset(names), part)),
            }
    return records


def show(part: str, record: Mapping[str, Any]) -> str:
    """The markdown of one number of training rows."""
    arms = record["arms"]
    header = ["arm", "AUROC", "R2", "the model minus it: AUROC", "R2", "all"]
    header += ["better / worse", "tasks", "CPU seconds: mean, most"]
    rows = [[arm, *_cells(arm, of_arm)] for arm, of_arm in arms.items()]
    by_name = [[name, *_by_arm(arms, name)] for name in arms[MODEL]["tasks"]]
    title = f"## {part}, {len(record['splits'])} split{'s' * (len(record['splits']) > 1)}"
    return "\n\n".join([title, table(header, rows), table(["task", *arms], by_name)])


def _by_arm(arms: Mapping[str, Any], task: str) -> list[str]:
    return [_score(of_arm["tasks"].get(task)) for of_arm in arms.values()]


def _cells(arm: str, of_arm: Mapping[str, Any]) -> list[str]:
    groups = of_arm["groups"]
    means = [_score(groups.get(group, {}).get("mean")) for group in ("AUROC", "R2")]
    seconds = f"{of_arm['cpu seconds a fit']:.0f}, {of_arm['most cpu seconds']:.0f}"
    if arm == MODEL:
        return [*means, "", "", "", "", str(len(of_arm["tasks"])), seconds]
    differences = [
        format_number(groups[group]["model minus"], "+", 4) if group in groups else ""
        for group in ("AUROC", "R2", "all")
    ]
    counts = f"{of_arm['better_fdr']} / {of_arm['worse_fdr']}"
    return [*means, *differences, counts, str(len(of_arm["tasks"])), seconds]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
