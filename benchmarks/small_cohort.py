"""Whether the figures of a small hospital are honest: what cross-fitting says of a model that few
patients made, beside what the model does on all the others.

    python benchmarks/small_cohort.py --tables FOLDER [--patients 194] [--draws 10] [--folds 3]

Each draw takes so many patients of a folder of the tables format, embeds and cross-fits them as the
pipeline does, and judges the shipped model on every patient that was not drawn. Printed are, over
all tasks that the pipeline would claim: the mean of the figures and of the truth, how often a 95%
interval holds the truth, and how often sets and intervals of the model hold the labels of the
others, beside what the report says of it. With ``--folds 0`` the same of the test split.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from m3h_core import (
    Calibrator,
    Cohort,
    EnsembleModel,
    FitConfig,
    FoldCalibrators,
    ObservedCoverage,
    TaskSpec,
    cross_fit,
    with_folds,
)
from m3h_core.data.cohort import TEST
from m3h_core.metrics import Score, evaluate_predictions, primary_metric
from m3h_core.training.cross_fit import cross_fit_trees
from m3h_pipeline.config import EvaluationConfig, TrainingConfig
from m3h_pipeline.evaluation.scores import explain_no_claim, find_judged_rows
from m3h_pipeline.sources.splits import FRACTIONS
from quality_study.data import shuffled
from quality_study.tables import TablesData

RESAMPLES = 500


def draw(cohort: Cohort, n_patients: int, seed: int) -> np.ndarray:
    """The split [N] in which all but so many patients are the test split; these have the pipeline's
    shares of splits, drawn by the seed.
    """
    subjects, subject_of = np.unique(cohort.subjects, return_inverse=True)
    place = np.empty(len(subjects), dtype=int)
    place[shuffled(len(subjects), seed)] = np.arange(len(subjects))
    bounds = np.cumsum(FRACTIONS[:-1]) * n_patients
    split = np.searchsorted(bounds, place, side="right")
    return np.where(place < n_patients, split, len(FRACTIONS))[subject_of]


def fit_ensemble(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> EnsembleModel:
    """The model that the pipeline would ship."""
    network = cross_fit(cohort, tasks, FitConfig(seed=seed))
    rounds = TrainingConfig().tree_rounds
    trees = cross_fit_trees(cohort, tasks, rounds=rounds, seed=seed, workers=1)
    return EnsembleModel.combine(network, trees, cohort)


def judge_draw(
    data: TablesData, n_patients: int, n_folds: int, seed: int
) -> list[dict[str, float]]:
    """A record a claimed task of one draw."""
    whole = data.cohort(0)
    split = draw(whole, n_patients, seed)
    is_drawn = split < len(FRACTIONS)
    embedded = data.embedded(replace(whole, split=np.where(is_drawn, split, TEST)))
    drawn = embedded.take(np.flatnonzero(is_drawn))
    few = with_folds(drawn, n_folds)
    others = replace(
        embedded.take(np.flatnonzero(~is_drawn)), split=np.full((~is_drawn).sum(), TEST)
    )
    model = fit_ensemble(few, [*data.tasks, *data.helpers], seed)
    unseen = model.predict_unseen(few)
    claimed = [task for task in data.tasks if explain_no_claim(few, task) is None]
    figures = evaluate_predictions(few, claimed, unseen, n_bootstrap=RESAMPLES)
    predictions = model.predict(others)
    calibrator = Calibrator.fit(few, model.tasks, unseen)
    regions = calibrator.sets(predictions) | calibrator.intervals(predictions)
    own_regions = find_own_regions(few, model.tasks, unseen)
    records = []
    for task in claimed:
        record = describe(
            task, others, predictions[task.name], regions[task.name], figures[task.name]
        )
        own = measure_coverage(task, few, find_judged_rows(few, task), own_regions[task.name])
        records.append(record | {"said": own})
    return records


def find_own_regions(
    few: Cohort, tasks: Sequence[TaskSpec], unseen: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The sets and intervals that the report judges."""
    kind = Calibrator if few.fold is None else FoldCalibrators
    calibrator = kind.fit(few, tasks, unseen)
    return calibrator.sets(unseen) | calibrator.intervals(unseen)


def measure_coverage(
    task: TaskSpec, cohort: Cohort, rows: np.ndarray, regions: np.ndarray
) -> float:
    """How often a task's sets or intervals hold the label."""
    y_true = np.asarray(cohort.labels[task.name])[rows]
    return ObservedCoverage.of(task, y_true, regions[rows], cohort.subjects[rows]).coverage


def describe(
    task: TaskSpec, others: Cohort, prediction: np.ndarray, regions: np.ndarray, figure: Score
) -> dict[str, float]:
    """A task's figure and the truth."""
    truth = primary_metric(others, task, prediction)
    rows = np.flatnonzero(others.labelled[task.name])
    return {
        "metric": float(task.problem == "regression"),
        "figure": figure.value,
        "truth": truth,
        "width": figure.high - figure.low,
        "holds": float(figure.low <= truth <= figure.high),
        "coverage": measure_coverage(task, others, rows, regions),
        "n": figure.n,
    }


def average_records(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each field."""
    names = list(records[0])
    means = np.mean([list(record.values()) for record in records], axis=0)
    return dict(zip(names, means.tolist(), strict=True))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=194)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--folds", type=int, default=EvaluationConfig().folds)
    parser.add_argument("--cache", type=Path, default=Path(".m3h/quality"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = TablesData(options.tables, options.cache)
    by_metric: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(options.draws):
        records = judge_draw(data, options.patients, options.folds, seed)
        for record in records:
            by_metric["R2" if record["metric"] else "AUROC"].append(record)
        print(f"draw {seed}: {len(records)} tasks claimed", flush=True)
    judged = f"cross-fitted in {options.folds}" if options.folds > 1 else "on the test split"
    print(f"\n{options.patients} patients, {judged}, {options.draws} draws\n")
    print(
        "| metric | tasks a draw | labels | figure | truth | 95% intervals hold it | width |",
        end="",
    )
    print(" sets and intervals for 90% hold | said |")
    print("|---|---|---|---|---|---|---|---|---|")
    for metric, records in sorted(by_metric.items()):
        mean = average_records(records)
        print(
            f"| {metric} | {len(records) / options.draws:.1f} | {mean['n']:.0f} | "
            f"{mean['figure']:.3f} | {mean['truth']:.3f} | {mean['holds']:.1%} | "
            f"{mean['width']:.3f} | {mean['coverage']:.1%} | {mean['said']:.1%} |"
        )


if __name__ == "__main__":
    main()
