"""The shipped model against strong opponents of other makers: CatBoost, TabM, RealMLP, AutoGluon, a
stacked ensemble of scikit-learn's, and TabPFN and TabICL where there are files of their weights.

    make opponents                       # their environment, build/opponents
    python benchmarks/opponents.py --tables FOLDER [--splits 2] [--rows all,150,500]
        [--opponents catboost,...] [--tabpfn-checkpoint CLASSES [NUMBERS]]
        [--tabicl-checkpoint CLASSES [NUMBERS]]

Patients, splits, inputs and labels are those of benchmarks/quality.py, and so are the shipped model
(the ensemble of joint networks and trees) and its parts: all tasks are learned, in three folds, and
with the same ``--cache`` nothing is fitted twice. Twelve tasks are judged, spread evenly over all
that can be, sorted by problem and name.

An opponent learns each task by itself, with one thread and at most 60 CPU seconds a fit, in an
environment of its own: inputs, splits and the labels of training and validation rows go there as
files, predictions of the test rows come back (benchmarks/opponent_models). It reads the embedded
inputs of all modalities side by side, without columns that are constant on training rows; a gap is
the column's mean, and a flag. What each does with validation rows: opponent_models/models.py.

A fit is a file, so a run can be stopped at any time. Prints markdown tables of what is there;
``--json`` writes all numbers.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from quality import arm_of, names

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from m3h_core.files import fingerprint, write_json
from m3h_pipeline.config import EvaluationConfig
from m3h_pipeline.errors import InputError
from opponent_models import protocol
from opponent_models.models import OPPONENTS
from opponent_models.protocol import Fit
from quality_study.arms import Predictions
from quality_study.cache import Store, bare_code
from quality_study.data import Data, fewer_rows
from quality_study.opponents import MODEL, NOTES, Predicted, show, summarize
from quality_study.results import Results
from quality_study.tables import TablesData
from quality_study.task_arms import stack

FOLDER = Path(__file__).resolve().parent
PYTHON = FOLDER.parent / "build" / "opponents" / "bin" / "python"
PRETRAINED = [name for name, opponent in OPPONENTS.items() if opponent.pretrained]
N_TASKS = 12
ROWS = ("all", "150", "500")


@dataclass(frozen=True)
class Part:
    """One split's cohort, with all training rows or a few; inputs are embedded."""

    rows: str
    seed: int
    cohort: Cohort

    @property
    def title(self) -> str:
        return "all training rows" if self.rows == "all" else f"{self.rows} training rows"


def judged_tasks(tasks: Sequence[TaskSpec]) -> list[TaskSpec]:
    """Twelve of the tasks, spread evenly over all, sorted by problem and name.

    >>> named = [TaskSpec(f"t{i:02}", "binary" if i % 2 else "regression") for i in range(23)]
    >>> [task.name for task in judged_tasks(named)]
    ['t01', 't05', 't09', 't13', 't17', 't21', 't02', 't06', 't10', 't14', 't18', 't22']
    """
    ordered = sorted(tasks, key=lambda task: (task.problem, task.name))
    at = np.linspace(0, len(ordered) - 1, min(N_TASKS, len(ordered))).round().astype(int)
    return [ordered[i] for i in at]


def parts_of(data: Data, splits: int, rows: Sequence[str]) -> Iterator[Part]:
    """All parts, a split's together."""
    for seed in range(splits):
        raw = data.cohort(seed)
        n_train = int((raw.split == TRAIN).sum())
        for of_part in rows:
            if of_part != "all" and int(of_part) >= n_train:
                continue
            cohort = raw if of_part == "all" else fewer_rows(raw, int(of_part), seed)
            yield Part(of_part, seed, data.embedded(cohort))


# Our own model ------------------------------------------------------------------------------------


def own_predictions(
    part: Part, data: Data, store: Store, folds: int
) -> tuple[dict[str, Predictions], dict[str, list[float]]]:
    """The shipped model, its trees and its networks on all tasks, and the CPU seconds a task."""
    results = Results(has_folds=folds > 1)
    networks = ["joint"]
    if part.cohort.series is not None:
        networks.append("recurrent")
    for name in (*networks, "trees"):
        arm = arm_of(name, {}, folds)
        cohort = part.cohort.with_series() if arm.series else part.cohort
        tasks = data.tasks if arm.alone else [*data.tasks, *data.helpers]
        predictions, seconds = store.predictions(arm, cohort, tasks, part.seed, data.tasks)
        results.add(name, 0, (cohort, data.tasks), predictions, seconds)
    results.average("networks", networks)
    results.mix(MODEL, "networks", "trees")
    # As in the pipeline, which gives the trees that it compares with the same lines.
    results.mix("trees", "trees", "trees")
    arms = (MODEL, "trees", "networks")
    a_task = {arm: [results.seconds[arm] / len(data.tasks)] for arm in arms}
    return {arm: results.predictions[arm][0] for arm in arms}, a_task


# The opponents ------------------------------------------------------------------------------------


def inputs_of(cohort: Cohort) -> np.ndarray:
    """All modalities side by side [N, F] without gaps: the mean of training rows, and a flag for
    each modality that some row lacks; without columns that are constant on training rows.
    """
    x = stack(cohort)
    is_train = cohort.split == TRAIN
    is_gap = np.isnan(x)
    counts = np.maximum((~is_gap[is_train]).sum(0), 1)
    means = np.where(is_gap[is_train], 0, x[is_train]).sum(0) / counts
    flags = np.column_stack(list(cohort.present.values())).astype(x.dtype)
    full = np.hstack([np.where(is_gap, means, x), flags])
    return full[:, np.ptp(full[is_train], axis=0) > 0]


def export(part: Part, tasks: Sequence[TaskSpec], folder: Path) -> Path:
    """Write a part's cohort for the opponents' environment, once."""
    cohort = part.cohort
    x = inputs_of(cohort)
    rows = {
        protocol.TRAIN: cohort.split == TRAIN,
        protocol.VALID: cohort.split == VALID,
        protocol.TEST: cohort.split == TEST,
    }
    labels = {
        task.name: np.where(cohort.labelled[task.name], cohort.labels[task.name], np.nan)
        for task in tasks
    }
    key = fingerprint(x, *rows.values(), sorted(labels), *(labels[name] for name in sorted(labels)))
    file = folder / f"{part.rows}-{part.seed}-{key}.npz"
    if not file.exists():
        protocol.write_cohort(file, x, rows, labels)
    return file


def fits_of(
    part: Part, tasks: Sequence[TaskSpec], file: Path, options: argparse.Namespace
) -> list[Fit]:
    """A fit for each opponent and task; none where a pretrained opponent has no weights for it."""
    fits = []
    for name in options.opponents:
        opponent = OPPONENTS[name]
        code = fingerprint(bare_code(inspect.getsource(opponent.fit)), options.seconds)
        for task in tasks:
            checkpoints = [str(one.resolve()) for one in options.checkpoints.get(name, ())]
            if opponent.pretrained and not checkpoints[int(task.problem == "regression") :]:
                continue
            weights = [fingerprint(np.fromfile(one, np.uint8)) for one in checkpoints]
            key = fingerprint(file.stem, code, weights)
            fit = Fit(
                opponent=name,
                cohort=str(file),
                task=task.name,
                problem=task.problem,
                n_classes=task.n_outputs if task.problem == "multiclass" else 2,
                seed=part.seed,
                seconds=options.seconds,
                to=str(file.parent / f"{name}-{task.name}-{key}.npz"),
                checkpoints=checkpoints,
            )
            fits.append(fit)
    return fits


def make(fits: Sequence[Fit], folder: Path, python: Path) -> None:
    """Make the fits that are not there, by the Python of the opponents' environment."""
    if all(Path(fit.to).exists() for fit in fits):
        return
    if not python.exists():
        raise InputError(f"There is no {python}; `make opponents` makes it, or give --python.")
    file = folder / "fits.json"
    protocol.write_fits(file, fits)
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [str(python), "-m", "opponent_models.run", str(file)]
    subprocess.run(command, cwd=FOLDER, env={**os.environ, **one_thread}, check=True)


def predictions_of(
    fits: Sequence[Fit], cohort: Cohort
) -> tuple[dict[str, Predictions], dict[str, list[float]]]:
    """Each opponent's predictions that are there, NaN on other rows than test rows, and the CPU
    seconds of its fits.
    """
    predictions: dict[str, Predictions] = defaultdict(dict)
    seconds: dict[str, list[float]] = defaultdict(list)
    test = np.flatnonzero(cohort.split == TEST)
    for fit in fits:
        if not Path(fit.to).exists():
            continue
        of_test, took = protocol.read_prediction(Path(fit.to))
        full = np.full((len(cohort), *of_test.shape[1:]), np.nan)
        full[test] = of_test
        predictions[fit.opponent][fit.task] = full
        seconds[fit.opponent].append(took)
    return predictions, seconds


def compute(options: argparse.Namespace, data: Data) -> dict[str, Predicted]:
    """What our own model and the opponents predict, by the number of training rows; fitted where it
    is not there, unless ``options.fit`` is false.
    """
    folder = options.cache / "opponents"
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(options.cache)
    tasks = judged_tasks(data.tasks)
    predicted: dict[str, Predicted] = defaultdict(Predicted)
    for part in parts_of(data, options.splits, options.rows):
        fits = fits_of(part, tasks, export(part, tasks, folder), options)
        if options.fit:
            make(fits, folder, options.python)
        opponents, seconds = predictions_of(fits, part.cohort)
        if opponents or options.fit:
            own, own_seconds = own_predictions(part, data, store, options.folds)
            predicted[part.title].add(part.seed, own, own_seconds)
            predicted[part.title].add(part.seed, opponents, seconds)
    return predicted


# The command --------------------------------------------------------------------------------------


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, help="a folder of the tables format")
    parser.add_argument("--splits", type=int, default=2, help="how many splits by patient")
    parser.add_argument("--rows", type=names, default=list(ROWS), help="training rows, or all")
    parser.add_argument("--opponents", type=names, default=list(OPPONENTS), help="only these")
    parser.add_argument("--seconds", type=float, default=60.0, help="of CPU time, at most, a fit")
    parser.add_argument(
        "--folds",
        type=int,
        default=EvaluationConfig().folds,
        help="in how many our own models are cross-fitted; by default as in the pipeline",
    )
    for name in PRETRAINED:
        parser.add_argument(
            f"--{name}-checkpoint",
            type=Path,
            nargs="+",
            default=[],
            metavar="FILE",
            help="weights for classes, then those for numbers",
        )
    parser.add_argument("--python", type=Path, default=PYTHON, help="of their environment")
    parser.add_argument(
        "--no-fit", dest="fit", action="store_false", help="show what is there of the opponents"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".m3h/quality"),
        help="folder of predictions and of what is computed from patients, as of quality.py",
    )
    parser.add_argument("--json", type=Path, help="where all numbers go")
    options = parser.parse_args(arguments)
    wrong = {*options.opponents} - {*OPPONENTS}
    wrong |= {rows for rows in options.rows if rows != "all" and not rows.isdecimal()}
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    options.cache = options.cache.resolve()
    options.checkpoints = {name: getattr(options, f"{name}_checkpoint") for name in PRETRAINED}
    for name, files in options.checkpoints.items():
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            parser.error(f"--{name}-checkpoint: there is no file {', '.join(missing)}")
    return options


def left_out(options: argparse.Namespace, tasks: Sequence[TaskSpec]) -> list[str]:
    """A sentence on each pretrained opponent that has no weights."""
    has_numbers = any(task.problem == "regression" for task in tasks)
    sentences = []
    for name in PRETRAINED:
        if name not in options.opponents:
            continue
        n_files = len(options.checkpoints[name])
        if not n_files:
            sentences.append(f"{name} is left out: no file of its weights, --{name}-checkpoint.")
        elif n_files == 1 and has_numbers:
            sentences.append(f"{name} is left out of numbers: no second file of its weights.")
    return sentences


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit what is not there yet, and print the tables."""
    options = parsed(arguments)
    if not options.tables:
        print("Give patients with --tables; none are part of this repository.")
        return
    torch.set_num_threads(1)
    try:
        data = TablesData(options.tables, options.cache, hours=24.0)
        tasks = judged_tasks(data.tasks)
        sentences = left_out(options, tasks)
        for sentence in sentences:
            print(sentence, file=sys.stderr, flush=True)
        predicted = compute(options, data)
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on where it was.")
    cohorts = {seed: data.cohort(seed) for seed in range(options.splits)}
    records = {part: summarize(of_part, cohorts, tasks) for part, of_part in predicted.items()}
    shown = [show(part, record) for part, record in records.items()]
    print("\n\n".join([NOTES, *sentences, *shown]))
    if options.json:
        write_json(options.json, records)


if __name__ == "__main__":
    main()
