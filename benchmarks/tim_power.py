"""What the tests of task interaction are worth on planted tasks: power, false effects, coverage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from scipy import stats

from m3h_core import Cohort, FitConfig, TaskSpec, task_interaction, with_folds
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID
from m3h_core.tim import TaskInteraction, TaskSetEvaluator, shrink_network
from m3h_core.tim.matrix import list_cells
from m3h_core.tim.pairwise import pair_contrast

# As the pipeline measures it; a ridge would know the straight part of a cause alone.
LIGHT = shrink_network(FitConfig())
NAMES = ("learner", "teacher", "rival", "loner", "other")
# The cause of each task.
_CAUSES = (0, 0, 1, 2, 3)
_FEW = ("learner", "other")
FOLDS = 3
SEEDS = 3
# A smaller effect counts as none: what is called evidence then is false.
NOTHING = 0.005


def draw_classroom(seed: int, n_stays: int, features: int = 20) -> tuple[Cohort, list[TaskSpec]]:
    """A learner that one stay in five has a label of, a teacher of the same cause with all labels,
    two tasks of other causes with all, one with as few as the learner.

    The split is 60/15/10/15. All causes look alike to a network, so that what a task does to
    another is the same, on average, in every classroom of a size.
    """
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(features, features)))[0]
    x = rng.normal(size=(n_stays, features)).astype(np.float32)
    labels = {}
    labelled = {}
    for name, cause in zip(NAMES, _CAUSES, strict=True):
        straight = x @ mixing[:, 2 * cause]
        bent = np.abs(x @ mixing[:, 2 * cause + 1]) - np.sqrt(2 / np.pi)
        score = 1.5 * straight + 3 * bent + rng.logistic(size=n_stays)
        labels[name] = (score > 0).astype(float)
        labelled[name] = rng.random(n_stays) < (0.2 if name in _FEW else 1.0)
    splits = (TRAIN, VALID, CALIBRATION, TEST)
    cohort = Cohort(
        [str(i) for i in range(n_stays)],
        rng.choice(splits, n_stays, p=(0.6, 0.15, 0.1, 0.15)),
        {"x": x},
        {"x": np.ones(n_stays, dtype=bool)},
        labels,
        labelled,
    )
    return cohort, [TaskSpec(name, "binary") for name in NAMES]


def compute_truth(n_stays: int, repetitions: int) -> np.ndarray:
    """The change [T, T] of each task's AUROC, the mean over other classrooms."""
    matrices = []
    for repetition in range(repetitions):
        cohort, tasks = draw_classroom(100_000 + repetition, n_stays)
        evaluator = TaskSetEvaluator(with_folds(cohort, FOLDS), tasks, LIGHT, [repetition])
        n = len(tasks)
        evaluator.train([*((i,) for i in range(n)), *combinations(range(n), 2)])
        matrix = np.zeros((n, n))
        contrasts = [pair_contrast(i, j) for i, j in list_cells(n)]
        matrix[~np.eye(n, dtype=bool)] = evaluator.values(contrasts)
        matrices.append(matrix)
    return np.mean(matrices, axis=0)


@dataclass
class Tally:
    """What was counted over classrooms."""

    inside: list[bool] = field(default_factory=list)
    effects: int = 0
    false_effects: int = 0
    teachers: int = 0
    models: int = 0

    def add(self, interaction: TaskInteraction, truth: np.ndarray) -> None:
        """Count one measurement."""
        for cell in list_cells(len(truth)):
            value = interaction.matrix_TT[cell]
            if not interaction.stopped_TT[cell]:
                is_above = truth[cell] >= interaction.low_TT[cell]
                self.inside.append(bool(is_above and truth[cell] <= interaction.high_TT[cell]))
            if interaction.evidence_TT[cell]:
                is_real = abs(truth[cell]) >= NOTHING
                self.effects += 1
                self.false_effects += not (is_real and value * truth[cell] > 0)
        self.teachers += bool(interaction.evidence_TT[0, 1])
        self.models += interaction.models


def measure_power(sizes: tuple[int, ...], repetitions: int, others: int) -> None:
    """Print what the tests find, and how often they and the intervals are right."""
    for n_stays in sizes:
        truth = compute_truth(n_stays, others)
        tally = Tally()
        started = time.process_time()
        for repetition in range(repetitions):
            cohort, tasks = draw_classroom(repetition, n_stays)
            config = replace(LIGHT, seed=repetition)
            seeds = [repetition * SEEDS + i for i in range(SEEDS)]
            folds = with_folds(cohort, FOLDS)
            tally.add(task_interaction(folds, tasks, config=config, seeds=seeds), truth)
        seconds = (time.process_time() - started) / repetitions
        print(
            f"{n_stays} stays: the teacher is found in {_share(tally.teachers, repetitions)} "
            f"(it adds {truth[0, 1]:.3f} to the learner's AUROC); false among {tally.effects} "
            f"effects: {_share(tally.false_effects, tally.effects)}, set: 5%; intervals that hold "
            f"the truth: {_share(sum(tally.inside), len(tally.inside))}, set: 95%; "
            f"{tally.models / repetitions:.0f} models and {seconds:.1f} s each",
            flush=True,
        )


def _share(count: int, of: int) -> str:
    """A share with its 95% interval (Wilson)."""
    if not of:
        return "none of 0"
    low, high = stats.binomtest(count, of).proportion_ci(method="wilson")
    return f"{count / of:.3f} [{low:.3f}, {high:.3f}]"
