"""The error of task interaction, on scores that are made up: intervals, p values, false edges."""

import numpy as np
from scipy.stats import false_discovery_control

from m3h_core import Cohort, FitConfig, TaskSpec
from m3h_core.data.cohort import TEST
from m3h_core.metrics import primary_metric, primary_replicates
from m3h_core.tim import (
    TaskSetEvaluator,
)
from m3h_core.tim.evaluator import Scored
from m3h_core.tim.pairwise import pair_contrast


def _simulated(
    seed: int, effect: float = 0.0, subjects: int = 150, tasks: int = 5, seeds: int = 2
) -> TaskSetEvaluator:
    """Pairs whose models are drawn: each seed is better or worse by chance, each model
    errs on its own.
    """
    rng = np.random.default_rng(seed)
    labels = {f"t{i}": (rng.random(subjects) < 0.4).astype(float) for i in range(tasks)}
    all_labelled = {name: np.ones(subjects, bool) for name in labels}
    cohort = Cohort(
        [str(i) for i in range(subjects)],
        np.full(subjects, TEST),
        {"x": np.zeros((subjects, 1), np.float32)},
        {"x": np.ones(subjects, bool)},
        labels,
        all_labelled,
    )
    evaluator = TaskSetEvaluator(
        cohort,
        [TaskSpec(name, "binary") for name in labels],
        FitConfig(seed=seed),
        range(seeds),
        200,
    )
    common = {i: rng.normal(size=subjects) for i in range(tasks)}
    for members in [(i,) for i in range(tasks)] + [
        (i, j) for i in range(tasks) for j in range(i + 1, tasks)
    ]:
        own = {i: rng.normal(size=subjects) for i in members}
        for s in range(seeds):
            scores = {}
            for i in members:
                strength = 1.2 + 0.15 * rng.normal() + effect * (members == (0, 1) and i == 0)
                score = (
                    strength * labels[f"t{i}"]
                    + common[i]
                    + 0.5 * own[i]
                    + 0.3 * rng.normal(size=subjects)
                )
                task = evaluator.tasks[i]
                value = primary_metric(cohort, task, score)
                replicates = primary_replicates(cohort, task, score, evaluator.draws)
                scores[i] = Scored(value, value, replicates)
            evaluator.scored[members, s] = scores
    return evaluator


def test_intervals_hold_the_truth_as_often_as_they_say_and_false_edges_are_as_rare():
    """Pairs that do nothing: 95% of the intervals hold 0, and a false edge is in about 5% of the
    matrices at most.
    """
    cells = [(i, j) for i in range(5) for j in range(5) if i != j]
    inside = []
    matrices_with_an_edge = 0
    repetitions = 120
    for repetition in range(repetitions):
        evaluator = _simulated(repetition)
        measured = evaluator.measure([pair_contrast(i, j) for i, j in cells], [i for i, _ in cells])
        inside.append(((measured.low <= 0) & (measured.high >= 0)).mean())
        matrices_with_an_edge += bool((false_discovery_control(measured.p) <= 0.05).any())
    error = np.std(inside) / np.sqrt(repetitions)  # cells of a matrix are not independent
    assert 0.95 - 3 * error - 0.01 < np.mean(inside) < 0.95 + 3 * error + 0.03
    assert matrices_with_an_edge <= 0.05 * repetitions + 2.6 * np.sqrt(0.05 * 0.95 * repetitions)


def test_a_true_edge_is_found_among_many_that_are_none():
    cells = [(i, j) for i in range(5) for j in range(5) if i != j]
    is_discovered = []
    for repetition in range(20):
        evaluator = _simulated(1000 + repetition, effect=1.5)
        measured = evaluator.measure([pair_contrast(i, j) for i, j in cells], [i for i, _ in cells])
        is_discovered.append((false_discovery_control(measured.p) <= 0.05)[cells.index((0, 1))])
    assert np.mean(is_discovered) > 0.7
