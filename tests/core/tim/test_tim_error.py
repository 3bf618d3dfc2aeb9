"""The error of task interaction, on scores that are made up: intervals, p values, false effects."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST
from m3h_core.metrics import Resamples, primary_replicates
from m3h_core.tim.seed_variance import SeedVariance
from m3h_core.tim.significance import Measured, Variances, estimate_error
from m3h_core.tim.subject_scores import score_subjects

FOLDS = 3
CELLS = 20


def measure_null(seed: int, repeats: int, effect: float = 0.0) -> Measured:
    """Contrasts of one task whose true value is 0, but for the first: patients, seeds and the rows
    that were trained on all add to them; what seeds do is told by so many repeats.
    """
    rng = np.random.default_rng(seed)
    patients = rng.uniform(0.5, 1.5, (CELLS, FOLDS))
    deviation = 0.8
    value = rng.normal(size=(CELLS, FOLDS)) * np.sqrt(patients)
    value += rng.normal(size=(CELLS, FOLDS)) * deviation / np.sqrt(repeats)
    value += 0.3 * rng.normal(size=(CELLS, FOLDS))
    value[0] += effect
    variances = np.zeros((CELLS, FOLDS))
    freedom = np.zeros(CELLS)
    if repeats > 1:
        seed_variance = SeedVariance()
        for cell in range(CELLS):
            for _ in range(FOLDS):
                seed_variance.add((0, cell), 0, (deviation * rng.normal(size=repeats)).tolist())
        for cell in range(CELLS):
            variances[cell] = seed_variance.variance((0, cell), 0) / repeats
            freedom[cell] = seed_variance.freedom((0, cell), 0)
    return estimate_error(value, Variances(patients, variances, freedom), [0] * CELLS)


@pytest.mark.parametrize("repeats", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say_and_false_effects_are_as_rare(repeats):
    """95% of the intervals hold 0, and an effect is in about 5% of the families at most."""
    inside = []
    false_effects = 0
    repetitions = 400
    for repetition in range(repetitions):
        measured = measure_null(repetition, repeats)
        inside.append(((measured.low <= 0) & (measured.high >= 0)).mean())
        false_effects += bool((false_discovery_control(measured.p) <= 0.05).any())
    assert 0.93 < np.mean(inside) < 0.98
    assert false_effects <= 0.05 * repetitions + 2.6 * np.sqrt(0.05 * 0.95 * repetitions)


def test_a_true_effect_is_seen_among_many_that_are_none():
    is_seen = []
    for repetition in range(40):
        measured = measure_null(1000 + repetition, 3, effect=4.5)
        is_seen.append((false_discovery_control(measured.p) <= 0.05)[0])
    assert np.mean(is_seen) > 0.7


def test_without_folds_and_with_one_seed_nothing_is_tested():
    variances = Variances(np.ones((4, 1)), np.zeros((4, 1)), np.zeros(4))
    measured = estimate_error(np.ones((4, 1)), variances, [0] * 4)
    assert np.isnan(measured.p).all()
    np.testing.assert_allclose(measured.error, 1)


def test_what_was_measured_in_one_fold_has_that_folds_error():
    value = np.array([[1.0, np.nan, np.nan], [1.0, 1.0, 1.0]])
    patients = np.where(np.isfinite(value), 1.0, np.nan)
    seeds = np.where(np.isfinite(value), 0.5, np.nan)
    measured = estimate_error(value, Variances(patients, seeds, np.full(2, 8.0)), [0, 0])
    np.testing.assert_allclose(measured.value, 1)
    np.testing.assert_allclose(measured.error, np.sqrt([1.5, 0.5]))


def make_cohort(problem: str, n: int = 400) -> tuple[Cohort, TaskSpec, np.ndarray]:
    """Predictions that know something, of patients with up to three stays."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=n)
    if problem == "regression":
        y = signal + rng.normal(size=n)
        prediction = 0.4 * signal
    elif problem == "binary":
        y = (signal + rng.normal(size=n) > 0.8).astype(float)
        prediction = 1 / (1 + np.exp(1 - signal))
    else:
        y = np.digitize(signal + rng.normal(size=n), [-0.5, 0.7]).astype(float)
        scores = np.exp(np.stack([-signal, 0 * signal, signal], axis=1))
        prediction = scores / scores.sum(1, keepdims=True)
    task = TaskSpec("task", problem, classes=3 if problem == "multiclass" else None)
    cohort = Cohort(
        [str(i) for i in range(n)],
        np.full(n, TEST),
        {"x": signal[:, None].astype(np.float32)},
        {"x": np.ones(n, bool)},
        {"task": y},
        {"task": rng.random(n) < 0.8},
        subject_ids=[str(i // 2 if i % 3 else i) for i in range(n)],
    )
    return cohort, task, prediction


@pytest.mark.parametrize("problem", ["binary", "multiclass", "regression"])
def test_the_metrics_error_is_that_of_resampled_patients(problem):
    cohort, task, prediction = make_cohort(problem)
    subject_of = np.unique(cohort.subjects, return_inverse=True)[1]
    scores = score_subjects(cohort, task, prediction, subject_of)
    replicates = primary_replicates(cohort, task, prediction, Resamples(cohort, TEST, 3000, 0))
    assert np.sqrt((scores.metric_P**2).sum()) == pytest.approx(replicates.std(), rel=0.06)


@pytest.mark.parametrize("problem", ["binary", "multiclass", "regression"])
def test_skill_is_0_for_the_best_constant_and_1_for_the_truth(problem):
    cohort, task, _ = make_cohort(problem)
    subject_of = np.arange(len(cohort))
    y = cohort.labels["task"]
    labels = y[cohort.labelled["task"]]
    if problem == "multiclass":
        constant = np.tile(np.bincount(labels.astype(int)) / len(labels), (len(y), 1))
        truth = np.eye(3)[y.astype(int)]
    else:
        constant = np.full(len(y), labels.mean())
        truth = y
    assert score_subjects(cohort, task, constant, subject_of).skill == pytest.approx(0, abs=1e-9)
    assert score_subjects(cohort, task, truth, subject_of).skill == pytest.approx(1)


def test_a_task_with_one_kind_of_label_has_no_score():
    cohort, task, prediction = make_cohort("binary")
    cohort.labels["task"][:] = 0
    scores = score_subjects(cohort, task, prediction, np.arange(len(cohort)))
    assert np.isnan([scores.metric, scores.skill]).all()
