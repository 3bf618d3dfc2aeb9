"""How often the intervals of task interaction hold the truth, and how often an edge is false."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from m3h_core import Cohort, FitConfig, TaskSpec, task_interaction
from m3h_core.data.cohort import TEST
from m3h_core.tim import TaskSetEvaluator, measure_interaction
from m3h_core.tim.matrix import list_cells

# A network that learns a planted cause from many labels and is led astray from few.
PLAIN = FitConfig(
    hidden=(32,),
    width=4,
    members=1,
    epochs=40,
    patience=10,
    linear_path=False,
    borrowing=False,
    weight_decay=0.1,
    learning_rate=0.01,
    dropout=0.0,
    balance=0.0,
)


NOTHING = 0.005


def classroom(
    seed: int, test: int, rows: int = 1000, features: int = 40
) -> tuple[Cohort, list[TaskSpec]]:
    """A learner with 50 labels, a teacher of the same cause with all, three tasks of other causes,
    one with 50 labels.

    The rows before the test rows are the same for every size of the test split.
    """
    rng = np.random.default_rng(seed)
    train = int(0.7 * rows)
    mixing = np.linalg.qr(rng.normal(size=(features, features)))[0]
    kept = {name: rng.choice(train, 50, replace=False) for name in ("learner", "other")}
    x = rng.normal(size=(rows, features))
    labels = {}
    noise = rng.logistic(size=(rows, 5))
    more = np.random.default_rng([seed, 1])
    x = np.vstack([x, more.normal(size=(test, features))]).astype(np.float32)
    noise = np.vstack([noise, more.logistic(size=(test, 5))])
    split = np.repeat([0, 1, TEST], [train, rows - train, test])
    names = ("learner", "teacher", "rival", "loner", "other")
    for at, (name, cause) in enumerate(zip(names, (0, 0, 1, 2, 3), strict=True)):
        labels[name] = (3 * (x @ mixing[:, cause]) + noise[:, at] > 0).astype(float)
    labelled = {name: np.ones(len(x), bool) for name in names}
    for name, rows_kept in kept.items():
        labelled[name][:train] = False
        labelled[name][rows_kept] = True
    cohort = Cohort(
        [str(i) for i in range(len(x))],
        split,
        {"x": x},
        {"x": np.ones(len(x), bool)},
        labels,
        labelled,
    )
    return cohort, [TaskSpec(name, "binary") for name in names]


def measure_coverage(repetitions: int, seeds: int, others: int, test: int, population: int) -> None:
    """Print how often intervals hold the truth, and how many edges called evidence are false."""
    rich = [(i, j) for i in (1, 2, 3) for j in (1, 2, 3) if i != j]
    inside: dict[str, list[bool]] = {"tasks with many labels": [], "tasks with few labels": []}
    edges = 0
    false_edges = 0
    teachers = 0
    for repetition in range(repetitions):
        cohort, tasks = classroom(repetition, test)
        interaction = task_interaction(
            cohort, tasks, config=replace(PLAIN, seed=0), seeds=range(seeds)
        )
        wide, _ = classroom(repetition, population)
        truth = measure_interaction(
            TaskSetEvaluator(wide, tasks, PLAIN, range(100, 100 + others), n_bootstrap=1)
        ).matrix_TT
        for cell in list_cells(5):
            kind = "tasks with many labels" if cell in rich else "tasks with few labels"
            inside[kind].append(
                bool(interaction.low_TT[cell] <= truth[cell] <= interaction.high_TT[cell])
            )
            if interaction.evidence_TT[cell]:
                edges += 1
                same_sign = interaction.matrix_TT[cell] * truth[cell] > 0
                false_edges += not (same_sign and abs(truth[cell]) >= NOTHING)
        teachers += bool(interaction.evidence_TT[0, 1])
        print(f"{repetition + 1} of {repetitions}", end="\r", flush=True)
    print(
        f"\ncoverage: {repetitions} cohorts, {seeds} seeds, {test} test subjects; "
        f"truth: {others} other seeds, "
        f"{population} subjects"
    )
    for kind, hits in inside.items():
        print(f"95% intervals of {kind}: {_share(sum(hits), len(hits))} hold the truth")
    print(f"false among {edges} edges called evidence: {_share(false_edges, edges)}, set: 5%")
    print(f"the teacher of the learner is found in {_share(teachers, repetitions)}")


def _share(count: int, of: int) -> str:
    """A share with its 95% interval (Wilson)."""
    if not of:
        return "none of 0"
    low, high = stats.binomtest(count, of).proportion_ci(method="wilson")
    return f"{count / of:.3f} [{low:.3f}, {high:.3f}]"
