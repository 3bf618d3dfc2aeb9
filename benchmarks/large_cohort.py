"""A large tabular cohort: what the shipped model adds to its trees, and what its network costs.

    python benchmarks/large_cohort.py [--stays 100000] [--tasks 44] [--seed 0] [--epochs N]

Made up: 30 numbers with gaps and 12 categories a stay, through the pipeline's tabular embedder, and
tasks that hang on a few causes, on thresholds and on pairs of columns. Says nothing of patients;
it is for time, and for what many rows change. CPU seconds, all threads; limits are those of the
summary line.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from m3h_core import Cohort, FitConfig, TaskSpec, fit
from m3h_core.data.cohort import TEST, VALID
from m3h_core.embedders import TabularEmbedder
from m3h_core.ensemble.mixture import Mixture
from m3h_core.ensemble.trees import fit_trees
from m3h_core.metrics import Resamples, interval, primary_metric, primary_replicates
from m3h_pipeline.config import TrainingConfig
from m3h_pipeline.sources.splits import FRACTIONS

NUMBERS = 30
CATEGORIES = 12
CAUSES = 10
RESAMPLES = 200
# Training of the network against that of the trees.
MOST_TIME = 3.0


def make_columns(n: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns {name: [N]} as they would be recorded, and the causes [N, 10] behind them."""
    causes = rng.normal(size=(n, CAUSES))
    columns: dict[str, np.ndarray] = {}
    for at in range(NUMBERS):
        value = causes @ rng.normal(size=CAUSES) / 3 + rng.normal(size=n)
        skewed = np.exp(value) if at % 3 == 0 else value
        columns[f"number_{at}"] = np.where(rng.random(n) < 0.02 * at, np.nan, skewed)
    for at in range(CATEGORIES):
        levels = 2 + at * at // 2
        leaning = causes[:, at % CAUSES] + rng.normal(size=n)
        rank = (leaning.argsort().argsort() / n) ** 2
        names = np.array([f"level {level}" for level in range(levels)], dtype=object)
        columns[f"category_{at}"] = names[np.minimum((rank * levels).astype(int), levels - 1)]
    return columns, causes


def make_labels(
    tasks: list[TaskSpec],
    columns: dict[str, np.ndarray],
    causes: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Labels {task: [N]}: a line through the causes, a threshold, and a product of two columns."""
    n = len(causes)
    labels = {}
    for at, task in enumerate(tasks):
        first, second = (
            np.nan_to_num(columns[f"number_{i}"]) for i in rng.choice(NUMBERS, 2, replace=False)
        )
        score = (
            causes @ rng.normal(size=CAUSES) / 3
            + 0.8 * (first > np.quantile(first, 0.8))
            + 0.3 * np.clip(first, -3, 3) * np.clip(second, -3, 3)
            + 2 * rng.normal(size=n)
        )
        if task.problem == "binary":
            prevalence = 0.02 + 0.3 * (at % 10) / 10
            score = (score > np.quantile(score, 1 - prevalence)).astype(float)
        labels[task.name] = score
    return labels


def make_cohort(stays: int, n_tasks: int, seed: int) -> tuple[Cohort, list[TaskSpec]]:
    """A cohort as the pipeline would hand it to training."""
    rng = np.random.default_rng(seed)
    split = rng.choice(len(FRACTIONS), stays, p=FRACTIONS).astype(np.int8)
    tasks = [
        TaskSpec(f"task_{at}", "regression" if at % 4 == 3 else "binary") for at in range(n_tasks)
    ]
    columns, causes = make_columns(stays, rng)
    labels = make_labels(tasks, columns, causes, rng)
    train = {name: values[split == 0] for name, values in columns.items()}
    vectors, present = TabularEmbedder().fit(train).transform(columns)
    cohort = Cohort(
        [str(i) for i in range(stays)],
        split,
        {"tabular": vectors.astype(np.float32)},
        {"tabular": present},
        labels,
        dict.fromkeys(labels, np.ones(stays, dtype=bool)),
    )
    return cohort, tasks


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stays", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=44)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=FitConfig().epochs)
    options = parser.parse_args()
    cohort, tasks = make_cohort(options.stays, options.tasks, options.seed)
    print(f"{len(cohort):,} stays, {cohort.widths} inputs, {len(tasks)} tasks", flush=True)

    started = time.process_time()
    epochs: list[float] = []
    network = fit(
        cohort,
        tasks,
        FitConfig(seed=options.seed, epochs=options.epochs),
        on_epoch=lambda state: epochs.append(state["valid_loss"]),
    )
    network_seconds = time.process_time() - started
    print(f"network: {network_seconds:.0f} s of CPU, {len(epochs)} epochs", flush=True)

    started = time.process_time()
    rounds = TrainingConfig().tree_rounds
    trees = fit_trees(cohort, tasks, rounds=rounds, seed=options.seed, workers=1)
    trees_seconds = time.process_time() - started
    print(f"trees: {trees_seconds:.0f} s of CPU", flush=True)

    of_network = network.predict(cohort)
    of_trees = trees.predict(cohort)
    mixture = Mixture.fit(cohort, tasks, of_network, of_trees, cohort.rows(VALID))
    # What `EnsembleModel` predicts, without asking its members again.
    of_model = mixture.apply(of_network, of_trees)
    predictions = {"model": of_model, "network": of_network, "trees": of_trees}
    draws = Resamples(cohort, TEST, RESAMPLES, seed=0)
    behind = []
    for problem, metric in (("binary", "AUROC"), ("regression", "R2")):
        of_kind = [task for task in tasks if task.problem == problem]
        for arm, values in predictions.items():
            scores = [primary_metric(cohort, task, values[task.name]) for task in of_kind]
            print(f"{metric} of the {arm}: {np.mean(scores):.4f}")
        for task in of_kind:
            gained = primary_replicates(cohort, task, of_model[task.name], draws)
            gained -= primary_replicates(cohort, task, of_trees[task.name], draws)
            _, high = interval(gained)
            if high < 0:
                behind.append(task.name)
    values = sorted(mixture.shares.values())
    print(f"share of the network: {np.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})")
    ratio = network_seconds / trees_seconds
    print(
        f"behind its trees on {len(behind)} of {len(tasks)} tasks (limit 0); the network's "
        f"training {ratio:.1f} times the trees' (limit {MOST_TIME:g})"
    )


if __name__ == "__main__":
    main()
