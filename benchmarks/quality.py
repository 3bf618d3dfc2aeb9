"""Quality on real patients: joint, single-task, trees, linear models and ablations on the Challenge
2012's 31 tasks.

    python benchmarks/quality.py --data challenge2012-set-a.csv.gz [--seeds 5]
        [--settings full,curve,scarce,ablation]

Settings: ``full``, all training rows; ``curve``, few training rows; ``scarce``, one task with few
labels beside tasks with many, its near-twins cut like it; ``ablation``, the joint model with one
part changed. A seed draws its own 60/15/25 split and is the training seed. Validation rows serve
early stopping and choices, test rows the scores alone. Predictions are kept in the cache folder, so
that a run can be stopped at any time, and that changed library code trains the networks anew and
leaves the trees. Prints markdown tables; ``--json`` writes all numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quality_tables import (
    NOTES,
    show,
)

from challenge2012 import arms as ways
from challenge2012.arms import Arm, Predictions
from challenge2012.cache import Store
from challenge2012.data import (
    BINARY,
    DETERMINED,
    REGRESSION,
    TASKS,
    Table,
    cohort_of,
    embedded,
    fewer_rows,
    scarce,
)
from challenge2012.statistics import (
    Estimate,
    Scores,
    better_and_worse,
    by_task,
    difference,
    draws_of,
    headroom,
    relative,
    skill_ratio,
)
from m3h_core import Cohort, TaskSpec
from m3h_core.files import write_json

# What each ablation changes of the default configuration. Not to share at all is the arm "single".
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-attention": {"attention": False},
    "paper-identity": {"self_bias": "paper"},
    "paper-normalisation": {"normalization": "paper"},
    "one-member": {"members": 1},
    "no-linear-path": {"linear_path": False},
    "no-borrowing": {"borrowing": False},
    "two-layers": {"hidden": (256, 128)},
    "light-decay": {"weight_decay": 0.1},
}
# Hard parameter sharing as in the multitask literature: a common trunk, then a head a task.
SHARED_BOTTOM = {"attention": False, "linear_path": False, "borrowing": False}

ARMS: dict[str, tuple[str, ...]] = {
    "full": (
        "joint",
        "single",
        "shared-bottom",
        "xgboost",
        "lightgbm",
        "xgboost-4",
        "lightgbm-4",
        "linear",
    ),
    "curve": ("joint", "single", "lightgbm"),
    "scarce": ("joint", "no-attention", "single", "single-own-rows", "lightgbm", "linear"),
    "ablation": ("joint", *ABLATIONS, "single"),
}
CURVE = (150, 500, 1500)
SCARCE_TASKS = (
    "death",
    "los_over_7",
    "ventilated",
    "sofa",
    "log_urine",
    "GCS",
    "Lactate",
    "HCO3",
    "PaCO2",
    "Creatinine",
    "Bilirubin",
    "HR",
    "NISysABP",
    "Platelets",
)
SCARCE_LABELS = (150, 60)

GROUPS: dict[str, tuple[str, ...]] = {
    "AUROC": BINARY,
    "R2": REGRESSION,
    "R2 without SOFA, SAPS-I": tuple(name for name in REGRESSION if name not in DETERMINED),
    "all": (*BINARY, *REGRESSION),
}
RESAMPLES = 1000


@dataclass(frozen=True)
class Cell:
    """One piece of work: an arm on one seed's cohort; ``keep`` are the tasks whose predictions are
    judged.
    """

    part: str
    arm: Arm
    seed: int
    cohort: Cohort
    tasks: Sequence[TaskSpec]
    keep: Sequence[TaskSpec] = ()


@dataclass
class Results:
    """What the arms predicted in one part, a setting or a point of the curve: {arm: one entry a
    seed}.
    """

    predictions: dict[str, list[Predictions]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, arm: str, seed: int, predictions: Predictions, seconds: float) -> None:
        """Take up one cell; cells of one seed and arm belong together."""
        of_arm = self.predictions[arm]
        of_arm.extend({} for _ in range(seed + 1 - len(of_arm)))
        of_arm[seed].update(predictions)
        self.seconds[arm] += seconds


def arm_of(name: str, changes: Mapping[str, Any]) -> Arm:
    """The arm of this name; ``changes`` of the default configuration hold for every network."""
    others: dict[str, Callable[[], Arm]] = {
        "single": lambda: ways.single(name, changes),
        "single-own-rows": lambda: ways.single_own_rows(name, changes),
        "shared-bottom": lambda: ways.joint(name, {**changes, **SHARED_BOTTOM}),
        "linear": lambda: ways.linear(name),
        "lightgbm": lambda: ways.lightgbm(name),
        "xgboost": lambda: ways.xgboost(name),
        "lightgbm-4": lambda: ways.lightgbm(name, averaged=4),
        "xgboost-4": lambda: ways.xgboost(name, averaged=4),
    }
    return (
        others[name]()
        if name in others
        else ways.joint(name, {**changes, **ABLATIONS.get(name, {})})
    )


def cells(
    setting: str,
    arms: Sequence[Arm],
    table: Table,
    raw: Cohort,
    seed: int,
    tasks: Sequence[TaskSpec],
) -> Iterator[Cell]:
    """The work of one setting and seed; ``raw`` is the seed's cohort before its inputs are
    embedded.
    """
    if setting == "scarce":
        network = embedded(raw, table)
        for task in tasks:
            if task.name in SCARCE_TASKS:
                for arm in arms:
                    cohort = scarce(raw if arm.raw else network, task.name, *SCARCE_LABELS, seed)
                    alone = arm.by_task or arm.name == "single"
                    yield Cell("scarce", arm, seed, cohort, [task] if alone else tasks, [task])
        return
    parts = (
        {f"curve {n}": fewer_rows(raw, n, seed) for n in CURVE}
        if setting == "curve"
        else {setting: raw}
    )
    for part, cohort in parts.items():
        network = embedded(cohort, table)
        for arm in arms:
            yield Cell(part, arm, seed, cohort if arm.raw else network, tasks)


def compute(
    options: argparse.Namespace, table: Table, cohorts: Sequence[Cohort]
) -> dict[str, Results]:
    """All predictions that are asked for, by part; from the cache where they are there."""
    store = Store(options.cache)
    changes = {"epochs": options.epochs} if options.epochs else {}
    results: dict[str, Results] = defaultdict(Results)
    for setting in options.settings:
        arms = [arm_of(name, changes) for name in ARMS[setting] if name in options.arms]
        for seed, raw in enumerate(cohorts):
            for cell in cells(setting, arms, table, raw, seed, options.tasks):
                predictions, seconds = store.predictions(
                    cell.arm, cell.cohort, cell.tasks, seed, cell.keep
                )
                results[cell.part].add(cell.arm.name, seed, predictions, seconds)
                names = " ".join(task.name for task in cell.keep)
                print(
                    f"{cell.part} {cell.arm.name} seed {seed} {names} {seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
    print(f"{store.misses} fitted, {store.hits} from the cache", file=sys.stderr)
    return results


# What the numbers say -----------------------------------------------------------------------------


def summary(
    part: str, results: Results, cohorts: Sequence[Cohort], tasks: Sequence[TaskSpec]
) -> dict[str, Any]:
    """All numbers of one part, JSON-ready; an interval is [value, low, high]."""
    draws = [draws_of(cohort, RESAMPLES, seed) for seed, cohort in enumerate(cohorts)]
    kept = [task for task in tasks if part != "scarce" or task.name in SCARCE_TASKS]
    scores = {
        arm: Scores.of(kept, cohorts, predictions, draws)
        for arm, predictions in results.predictions.items()
    }
    record: dict[str, Any] = {
        "seconds": dict(results.seconds),
        "tasks": {arm: _by_task(of_arm) for arm, of_arm in scores.items()},
        "means": {arm: _means(part, of_arm) for arm, of_arm in scores.items()},
    }
    if "joint" in scores:
        joint = scores["joint"]
        alone = scores.get("single")
        against = {arm: other for arm, other in scores.items() if arm != "joint"}
        record["joint minus"] = {
            arm: _compared(part, joint, other, alone) for arm, other in against.items()
        }
        record["joint minus, by task"] = {
            arm: _to_tuples(by_task(joint, other)) for arm, other in against.items()
        }
    return record


def _to_tuples(estimates: Mapping[str, Estimate]) -> dict[str, tuple]:
    return {name: astuple(estimate) for name, estimate in estimates.items()}


def _by_task(scores: Scores) -> dict[str, tuple]:
    rows = zip(scores.tasks, scores.values, scores.replicates, strict=True)
    return {task.name: astuple(Estimate.of(value, replicates)) for task, value, replicates in rows}


def _groups(part: str, scores: Scores) -> dict[str, Scores]:
    """The scores by problem class; all together where tasks are few."""
    wanted = {"all": GROUPS["all"]} if part == "scarce" else GROUPS
    parts = {group: scores.subset(names) for group, names in wanted.items()}
    return {group: some for group, some in parts.items() if some.tasks}


def _means(part: str, scores: Scores) -> dict[str, tuple]:
    means = {group: astuple(some.mean()) for group, some in _groups(part, scores).items()}
    return means | {"skill": astuple(scores.skills().mean())}


def _compared(part: str, joint: Scores, other: Scores, single: Scores | None) -> dict[str, Any]:
    """Joint minus another arm, by group; relative only where the single-task model has been trained
    too.
    """
    record: dict[str, Any] = {}
    for group, own in _groups(part, joint).items():
        names = [task.name for task in own.tasks]
        others = other.subset(names)
        alone = single.subset(names) if single else None
        change = relative(own, others, alone) if alone else None
        record[group] = {
            "difference": astuple(difference(own, others)),
            "headroom": astuple(headroom(own, others)),
            "relative": astuple(change) if change else None,
            "tasks": len(names),
            **better_and_worse(own, others),
        }
    record["skill"] = {
        "difference": astuple(difference(joint.skills(), other.skills())),
        "ratio": astuple(skill_ratio(joint, other)),
    }
    return record


# Tables -------------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    """A list that was given with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="the Challenge 2012's set A as one table, a CSV file"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", type=names, default=[], help="only these")
    parser.add_argument("--settings", type=names, default=list(ARMS), help=", ".join(ARMS))
    parser.add_argument("--tasks", type=names, default=[], help="only these")
    parser.add_argument("--epochs", type=int, help="fewer, for a quick look")
    parser.add_argument(
        "--cache", type=Path, default=Path(".m3h/quality"), help="folder of predictions"
    )
    parser.add_argument("--json", type=Path, help="where all numbers go")
    options = parser.parse_args(arguments)
    wrong = {*options.settings} - {*ARMS} | {*options.arms} - {
        arm for arms in ARMS.values() for arm in arms
    }
    wrong |= {*options.tasks} - {task.name for task in TASKS}
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    missing = (
        []
        if find_spec("xgboost")
        else [name for name in ARMS["full"] if name.startswith("xgboost")]
    )
    if missing:
        print(
            f"left out, as the package xgboost is not installed: {', '.join(missing)}",
            file=sys.stderr,
        )
    options.arms = [
        name for arms in ARMS.values() for name in arms if not options.arms or name in options.arms
    ]
    options.arms = [name for name in options.arms if name not in missing]
    options.tasks = [task for task in TASKS if not options.tasks or task.name in options.tasks]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is not there yet, and print the tables."""
    options = parsed(arguments)
    if not options.data:
        print("Give the table of patients with --data; it is not part of this repository.")
        return
    table = Table.read(options.data)
    cohorts = [cohort_of(table, seed) for seed in range(options.seeds)]
    try:
        results = compute(options, table, cohorts)
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on where it was.")
    records = {
        part: summary(part, of_part, cohorts, options.tasks) for part, of_part in results.items()
    }
    print("\n\n".join([NOTES, *(show(part, record) for part, record in records.items())]))
    if options.json:
        write_json(options.json, records)


if __name__ == "__main__":
    main()
