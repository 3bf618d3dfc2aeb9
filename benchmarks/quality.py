"""Quality on real patients: joint, single-task, trees, linear models, mixtures and ablations.

    python benchmarks/quality.py --tables FOLDER [--splits 5] [--split seeded|product]
        [--hours 24] [--settings main,curve,scarce,ablation] [--arms ...] [--tasks ...]
    python benchmarks/quality.py --data challenge2012-set-a.csv.gz

``--tables``: a folder of the tables format, through the pipeline's own extraction, contracts,
inputs and embedders; ``--data``: the Challenge 2012's set A as one row a patient, on the tasks
whose label is no input.

Settings: ``main``, all training rows; ``curve``, few training rows; ``scarce``, up to five tasks at
once with few labels beside tasks with many, their near-twins cut like them; ``ablation``, the joint
model with one part changed. A split has a training seed of its own. Validation rows serve early
stopping and choices, test rows the scores alone. Predictions are kept in the cache folder, so that
a run can be stopped at any time, and that changed library code trains the networks anew and leaves
the trees. Prints markdown tables; ``--json`` writes all numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from m3h_core import Cohort, FitConfig, TaskSpec
from m3h_core.config import recurrent_config
from m3h_core.data.cohort import TRAIN
from m3h_core.files import write_json
from m3h_pipeline.config import EmbeddingConfig, EvaluationConfig
from m3h_pipeline.errors import InputError
from quality_study import arms as ways
from quality_study import task_arms
from quality_study.arms import Arm
from quality_study.cache import Store
from quality_study.data import Data, fewer_rows, scarce
from quality_study.markdown import NOTES, show
from quality_study.results import Results, summarize
from quality_study.statistics import draws_of
from quality_study.summary import SummaryData
from quality_study.tables import TablesData

# What each ablation changes of the default configuration. Not to share at all is the arm "single".
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-attention": {"attention": False},
    "stable-attention": {"normalization": "stable"},
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

# Networks of which the mean counts as one.
MEANS = {
    "joint+recurrent": ("joint", "recurrent"),
    "single+recurrent": ("single", "recurrent-single"),
}
# Units of the state of an encoder that serves one task: better than with more (decision 39).
SINGLE_UNITS = 32
# Ensembles of a network and trees, weighted as the pipeline does; the first is what it ships.
MIXTURES = {
    "joint+recurrent+trees": ("joint+recurrent", "trees"),
    "single+trees": ("single", "trees"),
    "single+recurrent+trees": ("single+recurrent", "trees"),
    "joint+trees": ("joint", "trees"),
    "recurrent+trees": ("recurrent", "trees"),
}

_ABLATION = ("joint", *ABLATIONS, "single")
# Of a folder of tables: the pipeline's three arms first.
ARMS_OF_TABLES: dict[str, tuple[str, ...]] = {
    "main": (
        "joint",
        "single",
        "recurrent",
        "recurrent-single",
        "trees",
        *MIXTURES,
        "tuned-trees",
        "lightgbm-13",
        "no-attention",
        "stable-attention",
        "linear",
    ),
    "curve": ("joint", "single", "recurrent", "trees", *MIXTURES),
    "scarce": (
        "joint",
        "no-attention",
        "single",
        "single-own-rows",
        "recurrent",
        "trees",
        *MIXTURES,
        "linear",
    ),
    "ablation": _ABLATION,
}
ARMS_OF_SUMMARY: dict[str, tuple[str, ...]] = {
    "main": (
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
    "ablation": _ABLATION,
}
SETTINGS = tuple(ARMS_OF_TABLES)
CURVE = (150, 500, 1500)
SCARCE_LABELS = (150, 60)
RESAMPLES = 1000


@dataclass(frozen=True)
class Cell:
    """One piece of work: an arm on one split's cohort; ``tasks`` are learned, and of these the
    predictions of ``keep`` are judged.
    """

    part: str
    arm: Arm
    seed: int
    cohort: Cohort
    tasks: Sequence[TaskSpec]
    keep: Sequence[TaskSpec]


def arm_of(name: str, changes: Mapping[str, Any], n_folds: int = 0) -> Arm:
    """The arm of this name; ``changes`` of the default configuration hold for every network.

    With ``n_folds`` those that the pipeline trains are cross-fitted.
    """
    steps = EmbeddingConfig().series_steps
    recurrent = recurrent_config(FitConfig(**changes), steps).to_dict()
    del recurrent["seed"]  # each split has its own
    others: dict[str, Callable[[], Arm]] = {
        "single": lambda: ways.single(name, changes),
        "recurrent": lambda: replace(ways.joint(name, recurrent), series=True),
        "recurrent-single": lambda: replace(
            ways.single(name, {**recurrent, "hidden": (2 * SINGLE_UNITS,)}), series=True
        ),
        "single-own-rows": lambda: ways.single_own_rows(name, changes),
        "shared-bottom": lambda: ways.joint(name, {**changes, **SHARED_BOTTOM}),
        "linear": lambda: task_arms.linear(name),
        "trees": lambda: task_arms.trees(name),
        "lightgbm-13": lambda: task_arms.plain_lightgbm(name),
        "lightgbm": lambda: task_arms.lightgbm(name),
        "tuned-trees": lambda: task_arms.tuned_trees(name, n_folds),
        "xgboost": lambda: task_arms.xgboost(name),
        "lightgbm-4": lambda: task_arms.lightgbm(name, averaged=4),
        "xgboost-4": lambda: task_arms.xgboost(name, averaged=4),
    }
    arm = (
        others[name]()
        if name in others
        else ways.joint(name, {**changes, **ABLATIONS.get(name, {})})
    )
    return ways.cross_fitted(arm, n_folds) if arm.network or name == "trees" else arm


def fitted_arms(setting: str, options: argparse.Namespace) -> list[str]:
    """The arms of a setting that are to be fitted, those of wanted mixtures among them."""
    wanted = [name for name in options.arms_of[setting] if name in options.arms]
    mixed = {part for name in wanted for part in MIXTURES.get(name, ())}
    parts = {part for name in mixed for part in MEANS.get(name, (name,))}
    return [
        name
        for name in options.arms_of[setting]
        if name not in MIXTURES and (name in wanted or name in parts)
    ]


def cells(setting: str, arms: Sequence[Arm], data: Data, seed: int) -> Iterator[Cell]:
    """The work of one setting and split."""
    raw = data.cohort(seed)
    learned = [*data.tasks, *data.helpers]
    if setting == "scarce":
        inputs = list_inputs(arms, data, raw)
        for group in data.scarce_groups:
            kept = [task for task in data.tasks if task.name in group]
            for arm, cohort in zip(arms, inputs, strict=True):
                for name in group:
                    cohort = scarce(cohort, name, data.near_twins(name), *SCARCE_LABELS, seed)
                yield Cell("scarce", arm, seed, cohort, kept if arm.alone else learned, kept)
        return
    parts = {setting: raw}
    if setting == "curve":
        n_train = len(raw.rows(TRAIN))
        parts = {f"curve {n}": fewer_rows(raw, n, seed) for n in CURVE if n < n_train}
        parts["curve, all rows"] = raw
    for part, cohort in parts.items():
        for arm, read in zip(arms, list_inputs(arms, data, cohort), strict=True):
            tasks = data.tasks if arm.alone else learned
            yield Cell(part, arm, seed, read, tasks, data.tasks)


def list_inputs(arms: Sequence[Arm], data: Data, cohort: Cohort) -> list[Cohort]:
    """The cohort with the inputs that each arm reads; what several read is read once."""
    embedded = data.embedded(cohort)
    with_series = data.with_series(embedded) if any(arm.series for arm in arms) else embedded
    inputs = []
    for arm in arms:
        if arm.raw:
            inputs.append(cohort)
        elif arm.plain:
            inputs.append(data.plain(cohort))
        else:
            inputs.append(with_series if arm.series else embedded)
    return inputs


def compute(options: argparse.Namespace, data: Data) -> dict[str, Results]:
    """All predictions that are asked for, by part; from the cache where they are there."""
    store = Store(options.cache)
    changes = {"epochs": options.epochs} if options.epochs else {}
    results: dict[str, Results] = defaultdict(lambda: Results(has_folds=options.folds > 1))
    for setting in options.settings:
        arms = [arm_of(name, changes, options.folds) for name in fitted_arms(setting, options)]
        for seed in range(options.splits):
            for cell in cells(setting, arms, data, seed):
                predictions, seconds = store.predictions(
                    cell.arm, cell.cohort, cell.tasks, seed, cell.keep
                )
                learned = (cell.cohort, cell.keep)
                results[cell.part].add(cell.arm.name, seed, learned, predictions, seconds)
                task = f" {cell.keep[0].name} ..." if setting == "scarce" else ""
                print(
                    f"{cell.part} {cell.arm.name} split {seed}{task} {seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
    for of_part in results.values():
        for name, parts in MEANS.items():
            of_part.average(name, parts)
        for name, parts in MIXTURES.items():
            if name in options.arms:
                of_part.mix(name, *parts)
        # As in the pipeline, which gives the trees that it compares with the same lines.
        for name in ("trees", "tuned-trees"):
            of_part.mix(name, name, name)
    print(f"{store.misses} fitted, {store.hits} from the cache", file=sys.stderr)
    return results


def summary(part: str, results: Results, data: Data, splits: int) -> dict[str, Any]:
    """All numbers of one part."""
    cohorts = [data.cohort(seed) for seed in range(splits)]
    is_scarce = part == "scarce"
    tasks = [task for task in data.tasks if not is_scarce or task.name in data.scarce_tasks]
    # All together where tasks are few.
    groups = {"all": data.groups["all"]} if is_scarce else data.groups
    return summarize(results, cohorts, tasks, groups, draws_of(cohorts[0], RESAMPLES))


# The command --------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    """A list that was given with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tables", type=Path, help="a folder of the tables format")
    source.add_argument(
        "--data", type=Path, help="the Challenge 2012's set A as one table, a CSV file"
    )
    parser.add_argument("--splits", type=int, default=5, help="how many splits by patient")
    parser.add_argument(
        "--split",
        choices=("seeded", "product"),
        default="seeded",
        help="of tables: a permutation of the patients each, or the pipeline's split in all",
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=24.0,
        help="of tables: when a stay is predicted, after its admission",
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="in how many the networks and the pipeline's trees are cross-fitted; by default as "
        "in the pipeline, without --tables not at all",
    )
    parser.add_argument("--arms", type=names, default=[], help="only these")
    parser.add_argument("--settings", type=names, default=list(SETTINGS), help=", ".join(SETTINGS))
    parser.add_argument("--tasks", type=names, default=[], help="only these")
    parser.add_argument("--epochs", type=int, help="fewer, for a quick look")
    parser.add_argument("--threads", type=int, default=1, help="of a network's training")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".m3h/quality"),
        help="folder of predictions and, of tables, of what is computed from patients",
    )
    parser.add_argument("--json", type=Path, help="where all numbers go")
    options = parser.parse_args(arguments)
    if options.folds is None:
        options.folds = EvaluationConfig().folds if options.tables else 0
    options.arms_of = ARMS_OF_TABLES if options.tables else ARMS_OF_SUMMARY
    every_arm = {arm for arms in options.arms_of.values() for arm in arms}
    wrong = {*options.settings} - {*SETTINGS} | {*options.arms} - every_arm
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    for name in ("splits", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    missing = {name for name in every_arm if name.startswith("xgboost")}
    if find_spec("xgboost"):
        missing = set()
    if missing:
        print(
            f"left out, as the package xgboost is not installed: {', '.join(sorted(missing))}",
            file=sys.stderr,
        )
    options.arms = (set(options.arms) or every_arm) - missing
    return options


def open_data(options: argparse.Namespace) -> Data:
    """The patients, with the tasks that were asked for alone."""
    data: Data
    if options.tables:
        is_product = options.split == "product"
        data = TablesData(options.tables, options.cache, options.tasks, is_product, options.hours)
    else:
        data = SummaryData(options.data, options.tasks)
    unknown = {*options.tasks} - {task.name for task in data.declared}
    if unknown:
        raise InputError(f"--tasks: there is no task {', '.join(sorted(unknown))}")
    if not data.tasks:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in data.left_out.items())
        raise InputError(f"No task can be judged. {reasons}")
    return data


def describe(data: Data) -> str:
    """What a reader must know before the numbers."""
    left_out = [f"- {name}: {reason}" for name, reason in data.left_out.items()]
    parts = [NOTES, *data.notes]
    if left_out:
        parts.append("Tasks that are left out:\n\n" + "\n".join(left_out))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is not there yet, and print the tables."""
    options = parsed(arguments)
    if not options.data and not options.tables:
        print("Give patients with --tables or --data; none are part of this repository.")
        return
    torch.set_num_threads(options.threads)
    try:
        data = open_data(options)
        results = compute(options, data)
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on where it was.")
    records = {
        part: summary(part, of_part, data, options.splits) for part, of_part in results.items()
    }
    shown = [show(part, record) for part, record in records.items()]
    print("\n\n".join([describe(data), *shown]))
    if options.json:
        write_json(options.json, {**records, "left out": dict(data.left_out)})


if __name__ == "__main__":
    main()
