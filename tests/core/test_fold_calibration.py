"""Sets and intervals of a cross-fitted cohort: each patient's by the labels of other folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec, with_folds
from m3h_core.calibration import calibrator as fitting

DEATH = TaskSpec("death", "binary")
STAY = TaskSpec("stay", "regression", unit="days")
PHENOTYPE = TaskSpec("phenotype", "clustering", classes=2)
COVERAGE = 0.9
N_COHORTS = 200


def draw_cohort(seed: int, n_patients: int = 200) -> Cohort:
    """Patients with one to four stays each, which are alike."""
    rng = np.random.default_rng(seed)
    patient_of = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
    n = len(patient_of)
    space = rng.normal(size=(n_patients, 40))[patient_of] + rng.normal(size=(n, 40)) / 2
    own = rng.normal(size=n_patients)[patient_of]
    risk = space[:, 0] + space[:, 1] + own
    labels = {
        "death": (risk + rng.logistic(size=n) > 1).astype(float),
        "stay": 10 + 2 * space[:, 2] + 2 * own + rng.standard_t(4, size=n),
    }
    return with_folds(
        Cohort(
            [str(i) for i in range(n)],
            rng.choice(4, n_patients, p=[0.6, 0.15, 0.1, 0.15])[patient_of],
            {"tabular": space},
            {"tabular": np.ones(n, dtype=bool)},
            labels,
            {name: rng.random(n) < 0.9 for name in labels},
            subject_ids=[f"{seed}-{patient}" for patient in patient_of],
        ),
        3,
    )


def predict_by_fold(cohort: Cohort) -> dict[str, np.ndarray]:
    """Each row by least squares on the labels of the other folds."""
    x_NF = np.column_stack([cohort.embeddings["tabular"], np.ones(len(cohort))])
    predictions = {name: np.empty(len(cohort)) for name in cohort.labels}
    for name, labels in cohort.labels.items():
        for fold in range(cohort.n_folds):
            rows = np.flatnonzero(cohort.labelled[name] & (cohort.fold != fold))
            weights = np.linalg.lstsq(x_NF[rows], labels[rows], rcond=None)[0]
            of_fold = cohort.rows_of_fold(fold)
            predictions[name][of_fold] = x_NF[of_fold] @ weights
    # Too sure, as a model is that has fitted its own rows too closely.
    return predictions | {"death": expit(10 * (predictions["death"] - 0.5))}


@pytest.mark.slow(5)
def test_coverage_of_200_patients_is_as_stated(monkeypatch):
    """Mean over cohorts of the share of all rows that is covered, within a point: stays of a
    patient are alike, and those that calibrate were predicted by models that fit too closely, and
    have learned from this patient.
    """
    monkeypatch.setattr(fitting, "pays", lambda *_: False)  # the map is not what this is about
    covered = {"stay": [], "death 0": [], "death 1": []}
    for seed in range(N_COHORTS):
        cohort = draw_cohort(seed)
        predictions = predict_by_fold(cohort)
        calibrators = FoldCalibrators.fit(cohort, [DEATH, STAY], predictions, COVERAGE)
        labels = {name: cohort.labels[name][mask] for name, mask in cohort.labelled.items()}
        intervals = calibrators.intervals(predictions)["stay"][cohort.labelled["stay"]]
        low, high = intervals.T
        covered["stay"].append(np.mean((low <= labels["stay"]) & (labels["stay"] <= high)))
        assert np.isfinite(intervals).all()
        sets = calibrators.sets(predictions)["death"][cohort.labelled["death"]]
        for outcome in range(2):
            of_outcome = sets[labels["death"] == outcome, outcome]
            covered[f"death {outcome}"].append(of_outcome.mean())
    means = {name: np.mean(values) for name, values in covered.items()}
    for name, mean in means.items():
        assert mean == pytest.approx(COVERAGE, abs=0.01), name


def test_each_fold_s_rows_have_the_calibrator_of_the_other_folds():
    cohort = draw_cohort(0)
    predictions = predict_by_fold(cohort)
    calibrators = FoldCalibrators.fit(cohort, [DEATH, STAY], predictions, COVERAGE)
    assert calibrators.coverage == COVERAGE
    assert set(calibrators.about) == {"death", "stay"}
    for fold in range(3):
        others = np.flatnonzero(cohort.fold != fold)
        own = Calibrator.fit(cohort, [DEATH, STAY], predictions, COVERAGE, others)
        # So many labels were read: none of the fold's.
        assert own.about["death"].n == cohort.labelled["death"][others].sum()
        rows = cohort.rows_of_fold(fold)
        for method in ("calibrated", "sets", "intervals"):
            expected = getattr(own, method)(predictions)
            for name, values in getattr(calibrators, method)(predictions).items():
                np.testing.assert_array_equal(values[rows], expected[name][rows])
    thresholds = {one.about["stay"].thresholds for one in calibrators.by_fold}
    assert len(thresholds) == 3


def test_what_is_shipped_reads_every_label():
    cohort = draw_cohort(1)
    shipped = Calibrator.fit(cohort, [DEATH, STAY], predict_by_fold(cohort), COVERAGE)
    assert shipped.about["death"].n == cohort.labelled["death"].sum()
    # Of intervals the training split says how their width follows the prediction.
    not_trained = cohort.labelled["stay"] & (cohort.split != 0)
    assert shipped.about["stay"].n == not_trained.sum()
    # Without folds the calibration split alone.
    single = replace(cohort, fold=None)
    calibrator = Calibrator.fit(single, [DEATH], predict_by_fold(cohort), COVERAGE)
    assert calibrator.about["death"].n == (cohort.labelled["death"] & (cohort.split == 2)).sum()


def test_they_travel(tmp_path):
    cohort = draw_cohort(2)
    clusters = np.eye(2)[np.arange(len(cohort)) % 2]
    predictions = predict_by_fold(cohort) | {"phenotype": clusters}
    calibrators = FoldCalibrators.fit(cohort, [DEATH, STAY, PHENOTYPE], predictions, COVERAGE)
    calibrators.save(tmp_path)
    loaded = FoldCalibrators.load(tmp_path, cohort)
    assert loaded.by_fold == calibrators.by_fold
    for name, values in loaded.calibrated(predictions).items():
        np.testing.assert_array_equal(values, calibrators.calibrated(predictions)[name])
    np.testing.assert_array_equal(loaded.calibrated(predictions)["phenotype"], clusters)


def test_a_cohort_without_folds_is_refused(tmp_path):
    cohort = draw_cohort(3)
    predictions = predict_by_fold(cohort)
    single = replace(cohort, fold=None)
    with pytest.raises(ValueError, match="no folds: fit a Calibrator"):
        FoldCalibrators.fit(single, [DEATH], predictions)
    with pytest.raises(ValueError, match="no folds: load a Calibrator"):
        FoldCalibrators.load(tmp_path, single)
