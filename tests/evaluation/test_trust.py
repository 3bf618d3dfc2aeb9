"""trust.json: coverage over all and by predicted third, small groups hidden."""

from dataclasses import replace

import numpy as np
import pytest

from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec, with_folds
from m3h_core.data.cohort import CALIBRATION, TEST
from m3h_pipeline.evaluation.trust import describe_trust

STAY = TaskSpec("stay", "regression", unit="days")
DEATH = TaskSpec("death", "binary")


def make(n_test: int):
    """Stays whose errors grow with what is predicted, and intervals of one width: without
    validation labels.
    """
    rng = np.random.default_rng(0)
    split = np.repeat([CALIBRATION, TEST], [300, n_test])
    n = len(split)
    predictions = {"stay": rng.lognormal(1, 0.7, n), "death": rng.uniform(0.1, 0.9, n)}
    labels = {
        "stay": predictions["stay"] * rng.gamma(2, 0.5, n),
        "death": (rng.random(n) < predictions["death"]).astype(float),
    }
    labelled = dict.fromkeys(labels, np.ones(n, bool))
    cohort = Cohort([str(i) for i in range(n)], split, {}, {}, labels, labelled)
    return cohort, predictions, Calibrator.fit(cohort, [STAY, DEATH], predictions)


def test_coverage_is_told_by_predicted_third():
    cohort, predictions, calibrator = make(600)
    stay, death = describe_trust(cohort, [STAY, DEATH], predictions, calibrator)
    assert death["thirds"] is None
    low, middle, high = stay["thirds"]
    assert [third["n"] for third in stay["thirds"]] == [200] * 3
    assert low["coverage"] > 0.95
    assert high["high"] < 0.9
    mean = np.mean([third["coverage"] for third in (low, middle, high)])
    assert stay["coverage"] == pytest.approx(mean, abs=1e-5)
    size = np.mean([third["size"] for third in (low, middle, high)])
    assert stay["size"] == pytest.approx(size, abs=1e-5)


def test_a_third_of_few_patients_is_not_told():
    cohort, predictions, calibrator = make(60)
    subjects = np.arange(len(cohort))
    highest = 300 + np.argsort(predictions["stay"][300:])[40:]
    subjects[highest] = np.arange(20) % 9 + 10_000
    cohort = replace(cohort, subject_ids=[str(subject) for subject in subjects])
    [stay] = describe_trust(cohort, [STAY], predictions, calibrator)
    assert stay["thirds"][0]["n"] == stay["thirds"][1]["n"] == 20
    assert stay["thirds"][2] is None


def test_of_a_cross_fitted_cohort_every_sample_is_counted_with_its_own_fold_s_calibrator():
    cohort, predictions, _ = make(600)
    folded = with_folds(cohort, 3)
    calibrators = FoldCalibrators.fit(folded, [STAY, DEATH], predictions)
    stay, death = describe_trust(folded, [STAY, DEATH], predictions, calibrators)
    assert stay["n"] == death["n"] == len(cohort)
    assert sum(third["n"] for third in stay["thirds"]) == len(cohort)
    low, high = calibrators.intervals(predictions)["stay"].T
    is_covered = (low <= cohort.labels["stay"]) & (cohort.labels["stay"] <= high)
    assert stay["coverage"] == pytest.approx(is_covered.mean(), abs=1e-6)
