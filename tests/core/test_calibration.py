"""Calibration: coverage as stated, probabilities that mean what they say, nothing read but what may
be.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from scipy.stats import betabinom
from sklearn.metrics import log_loss, roc_auc_score
from synthetic import TASKS, with_labelled

from m3h_core import Calibrator, Cohort, TaskSpec, evaluate_predictions
from m3h_core.calibration import calibrator as fitting
from m3h_core.calibration.probabilities import fit_map, map_probabilities, pays
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID

DEATH = TASKS[0]
RARE = TaskSpec("rare", "binary")
STAY, DESTINATION, PHENOTYPE = TASKS[2:]
ALL = (DEATH, RARE, STAY, DESTINATION, PHENOTYPE)


def make(seed: int, n_calibration: int = 400, n_test: int = 600, confidence: float = 1.0):
    """A cohort and predictions of it, whose (log-)odds are ``confidence`` times the true ones; a
    tenth not labelled.
    """
    rng = np.random.default_rng(seed)
    n = n_calibration + n_test
    logits = {"death": rng.normal(size=n) * 1.5, "rare": rng.normal(size=n) * 2 - 5}
    labels = {
        name: (rng.random(n) < expit(values)).astype(float) for name, values in logits.items()
    }
    scores = rng.normal(size=(n, 3)) * 1.5 + [1, 0, -1]
    labels["destination"] = (scores + rng.gumbel(size=(n, 3))).argmax(1).astype(float)
    stay = 5 + rng.normal(size=n)
    labels["stay"] = stay + rng.exponential(3, n)  # skewed: no quantile of a normal will do
    labelled = {name: rng.random(n) < 0.9 for name in labels}
    split = rng.permutation(np.repeat([CALIBRATION, TEST], [n_calibration, n_test]))
    labels = {name: np.where(labelled[name], values, np.nan) for name, values in labels.items()}
    cohort = Cohort([str(i) for i in range(n)], split, {}, {}, labels, labelled)
    predictions = {name: expit(confidence * values) for name, values in logits.items()}
    predictions |= {"destination": softmax(confidence * scores, axis=1), "stay": stay}
    return cohort, predictions | {"phenotype": softmax(scores, axis=1)}


def all_calibration(task, labels):
    n = len(labels)
    return Cohort(
        [str(i) for i in range(n)],
        np.full(n, CALIBRATION),
        {},
        {},
        {task: labels},
        {task: np.ones(n, bool)},
    )


def labelled_rows(cohort, task, split=TEST):
    rows = np.flatnonzero(cohort.labelled[task] & (cohort.split == split))
    return rows, cohort.labels[task][rows]


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_is_as_stated_in_each_class_and_over_all_intervals(coverage, monkeypatch):
    """The count of covered test rows is beta-binomial, for any model; summed over repetitions,
    within 4 deviations.
    """
    monkeypatch.setattr(fitting, "pays", lambda *_: False)  # the map is not what this is about
    by_cell = {}
    for seed in range(60):
        cohort, predictions = make(seed, confidence=2.0)
        calibrator = Calibrator.fit(cohort, ALL, predictions, coverage)
        sets = calibrator.sets(predictions)
        intervals = calibrator.intervals(predictions)
        rows, target = labelled_rows(cohort, "stay")
        low, high = intervals["stay"][rows].T
        cells = [("stay", 0, (low <= target) & (target <= high))]
        for task, classes in (("death", 2), ("destination", 3)):
            rows, target = labelled_rows(cohort, task)
            cells += [(task, c, sets[task][rows[target == c], c]) for c in range(classes)]
        for task, c, covered in cells:
            n = calibrator.about[task].counts[c]
            k = int(np.ceil((n + 1) * coverage - 1e-9))
            expected = betabinom(len(covered), k, n + 1 - k)
            by_cell.setdefault((task, c), []).append(
                (covered.sum(), len(covered), expected.mean(), expected.var())
            )
    assert len(by_cell) == 6
    for cell, records in by_cell.items():
        count, total, mean, variance = np.sum(records, axis=0)
        assert abs(count - mean) < 4 * np.sqrt(variance), (cell, count / total)
        assert coverage - 0.01 < count / total < coverage + 0.03, cell


def test_a_rare_class_is_covered_too():
    """A set that holds the likelier class alone would have the marginal coverage, and miss all who
    have it.
    """
    cohort, predictions = make(0, n_calibration=8000, n_test=8000)
    calibrator = Calibrator.fit(cohort, [RARE], predictions := {"rare": predictions["rare"]})
    rows, target = labelled_rows(cohort, "rare")
    assert target.mean() < 0.05
    always_no = predictions["rare"][rows] < 0.5
    assert (always_no == (target == 0)).mean() > 0.9
    assert (always_no[target == 1] == 0).mean() < 0.5
    assert calibrator.sets(predictions)["rare"][rows[target == 1], 1].mean() > 0.84


@pytest.mark.parametrize("confidence", [0.4, 3.0], ids=["too timid", "too confident"])
def test_the_map_mends_probabilities_and_keeps_the_ranking(confidence):
    cohort, predictions = make(1, n_calibration=2000, n_test=4000, confidence=confidence)
    calibrator = Calibrator.fit(cohort, ALL, predictions)
    after = calibrator.calibrated(predictions)
    _, truth = make(1, n_calibration=2000, n_test=4000)
    scores = [
        evaluate_predictions(cohort, ALL[:4], p, n_bootstrap=1) for p in (predictions, after, truth)
    ]
    for task in ("death", "destination"):
        assert calibrator.about[task].mapped
        assert calibrator.about[task].slope == pytest.approx(1 / confidence, rel=0.15)
        rows, target = labelled_rows(cohort, task)
        before, mended, best = (
            log_loss(target, p[task][rows]) for p in (predictions, after, truth)
        )
        assert mended < before - 0.01
        assert mended < best + 0.01
        assert scores[1][task].others["ECE"] < 0.3 * scores[0][task].others["ECE"]
    for task in ("death", "rare"):
        assert scores[1][task].value == scores[0][task].value
    np.testing.assert_array_equal(
        after["destination"].argmax(1), predictions["destination"].argmax(1)
    )
    for task in ("stay", "phenotype"):
        np.testing.assert_array_equal(after[task], predictions[task])


def test_a_score_without_information_gets_the_base_rate_and_keeps_its_order():
    cohort, predictions = make(2, n_calibration=2000)
    rows, target = labelled_rows(cohort, "death", CALIBRATION)
    misleading = {"death": 1 - predictions["death"]}
    after = Calibrator.fit(cohort, [DEATH], misleading).calibrated(misleading)["death"]
    assert np.ptp(after[rows]) < 0.1
    assert after[rows].mean() == pytest.approx(target.mean(), abs=0.01)
    assert (
        roc_auc_score(target, after[rows]) == roc_auc_score(target, misleading["death"][rows]) < 0.5
    )


def each(values):
    return arrays(float, 60, elements=values, fill=st.nothing())


@settings(max_examples=60, deadline=None)
@given(
    each(st.sampled_from([0.0, 1.0])), each(st.integers(0, 100).map(lambda percent: percent / 100))
)
def test_any_map_is_increasing_and_finite(labels, probabilities):
    """Also where the classes are separable, and with probabilities of exactly 0 and 1 that are
    wrong.
    """
    slope, offset = fit_map("binary", labels.astype(int), probabilities)
    assert 0 < slope < 100
    after = map_probabilities("binary", probabilities, slope, offset)
    assert np.isfinite(after).all()
    assert ((after >= 0) & (after <= 1)).all()
    order = np.argsort(probabilities)
    assert (np.diff(after[order]) >= 0).all()
    before = np.clip(probabilities, 1e-15, 1 - 1e-15)
    assert log_loss(labels, after, labels=[0, 1]) <= log_loss(labels, before, labels=[0, 1]) + 1e-6
    if slope < 5:  # a steeper one may reach 1, as float64 has it
        assert len(np.unique(after)) == len(np.unique(probabilities))


def test_probabilities_that_are_right_already_are_seldom_mapped():
    """A map of few labels fits their chance: what it gains on them it loses on others."""
    tasks = [DEATH, DESTINATION]
    n_mapped = 0
    for seed in range(10):
        cohort, predictions = make(seed, n_calibration=130, n_test=1)
        calibrator = Calibrator.fit(cohort, tasks, {t.name: predictions[t.name] for t in tasks})
        for task in tasks:
            about = calibrator.about[task.name]
            n_mapped += about.mapped
            if not about.mapped:
                after = calibrator.calibrated({task.name: predictions[task.name]})[task.name]
                np.testing.assert_array_equal(after, predictions[task.name])
    assert n_mapped <= 4


def test_stays_of_one_patient_are_no_more_evidence_for_a_map_than_one():
    """Probabilities that are right, each label ten times. As ten patients the chance of 60 labels
    looks like a fault of the model; as one it looks like chance.
    """
    n_apart = 0
    n_together = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=60)
        labels = np.repeat((rng.random(60) < expit(logits)).astype(int), 10)
        probabilities = np.repeat(expit(logits), 10)
        n_apart += pays("binary", labels, probabilities, np.arange(600))
        n_together += pays("binary", labels, probabilities, np.arange(600) // 10)
    assert n_apart >= 5
    assert n_together <= 2


def test_multiclass_probabilities_of_exactly_0_and_1_stay_finite():
    n = 90
    labels = np.arange(n) % 3.0
    sure = np.eye(3)[(np.arange(n) + (np.arange(n) % 7 == 0)) % 3]
    predictions = {"destination": sure}
    calibrator = Calibrator.fit(all_calibration("destination", labels), [DESTINATION], predictions)
    after = calibrator.calibrated(predictions)["destination"]
    assert after.max() == pytest.approx((sure.argmax(1) == labels).mean(), abs=0.02)
    np.testing.assert_allclose(after.sum(1), 1)
    assert after.min() > 0


def test_only_labelled_rows_that_may_be_read_are_read():
    """Those of the calibration split; for intervals the validation split too, and whether a
    training label is negative.
    """
    cohort, predictions = make(3)
    split = np.where(np.arange(len(cohort)) < 200, VALID, cohort.split)
    split[200:260] = TRAIN
    cohort = replace(cohort, split=split)
    fitted = Calibrator.fit(cohort, ALL, predictions)
    labels = {}
    others = {}
    for task, prediction in predictions.items():
        labelled = cohort.labelled.get(task, np.zeros(len(cohort), bool))
        splits = [CALIBRATION, VALID] if task == "stay" else [CALIBRATION]
        unread = ~(labelled & np.isin(split, splits))
        others[task] = np.where(
            unread.reshape(-1, *[1] * (prediction.ndim - 1)), np.nan, prediction
        )
        if task in cohort.labels:
            labels[task] = np.where(unread, 77.0, cohort.labels[task])
    assert Calibrator.fit(replace(cohort, labels=labels), ALL, others) == fitted
    for task in ALL[:4]:
        row = labelled_rows(cohort, task.name, CALIBRATION)[0][0]
        mask = np.arange(len(cohort)) != row
        assert Calibrator.fit(with_labelled(cohort, task.name, mask), ALL, predictions) != fitted


def test_with_too_few_labels_it_says_nothing_rather_than_too_much():
    cohort, predictions = make(4)
    for task in ("death", "destination", "stay"):
        rows, target = labelled_rows(cohort, task, CALIBRATION)
        keep = (
            rows[:8]
            if task == "stay"
            else np.concatenate([rows[target == 0], rows[target == 1][:8]])
        )
        cohort = with_labelled(cohort, task, np.isin(np.arange(len(cohort)), keep))
    cohort = replace(
        cohort,
        labels={name: values for name, values in cohort.labels.items() if name != "rare"},
        labelled={name: values for name, values in cohort.labelled.items() if name != "rare"},
    )
    calibrator = Calibrator.fit(cohort, ALL, predictions, coverage=0.9)
    about = calibrator.about
    sets = calibrator.sets(predictions)
    assert not any(about[task.name].mapped or about[task.name].covered for task in ALL)
    assert (about["death"].counts[1], about["stay"].n, about["rare"].n, about["phenotype"].n) == (
        8,
        8,
        0,
        0,
    )
    for name, values in calibrator.calibrated(predictions).items():
        np.testing.assert_array_equal(values, predictions[name])
    assert sets["death"][:, 1].all()
    assert not sets["death"][:, 0].all()  # of this class there are enough
    assert sets["destination"][:, 1:].all()
    assert sets["rare"].all()
    assert np.isinf(calibrator.intervals(predictions)["stay"]).all()
    # Eight labels are enough for a little less.
    enough = Calibrator.fit(cohort, [STAY], predictions, coverage=0.88)
    assert np.isfinite(enough.intervals({"stay": predictions["stay"]})["stay"]).all()


def test_it_travels(tmp_path):
    cohort, predictions = make(5, n_calibration=60)
    calibrator = Calibrator.fit(cohort, ALL, predictions, coverage=0.97)
    assert not calibrator.about["rare"].covered  # infinite thresholds travel too
    calibrator.save(tmp_path / "new")
    loaded = Calibrator.load(tmp_path / "new")
    assert loaded == calibrator
    for name, values in loaded.calibrated(predictions).items():
        np.testing.assert_array_equal(values, calibrator.calibrated(predictions)[name])
    file = tmp_path / "new" / "calibrator.json"
    record = json.loads(file.read_text(), parse_constant=pytest.fail)
    file.write_text(json.dumps(record | {"format": 9}))
    with pytest.raises(ValueError, match="calibrator of format 9, this version reads 1 or 2"):
        Calibrator.load(tmp_path / "new")


def test_what_can_not_be_calibrated_is_refused():
    cohort, predictions = make(6)
    calibrator = Calibrator.fit(cohort, ALL, predictions)
    n = len(cohort)
    for wrong, message in (
        ({"death": np.full(n, 1.2)}, "'death' must be probabilities, from 0 to 1"),
        ({"death": np.full(n, np.nan)}, "'death' are not all finite"),
        ({"death": np.full((n, 2), 0.5)}, r"'death' must be \[N\], not of shape"),
        ({"destination": np.full((n, 2), 0.5)}, r"'destination' must be \[N, 3\], not of shape"),
        ({"destination": np.full((n, 3), 0.5)}, "'destination' must add up to 1"),
        ({"stay": np.full(n, np.inf)}, "'stay' are not all finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Calibrator.fit(cohort, ALL, predictions | wrong)
        for method in (calibrator.calibrated, calibrator.sets, calibrator.intervals):
            with pytest.raises(ValueError, match=message):
                method(wrong)
    with pytest.raises(ValueError, match="not fitted for the tasks \\['shock'\\]"):
        calibrator.sets({"shock": predictions["death"]})
    with pytest.raises(ValueError, match="no predictions of task 'stay'"):
        Calibrator.fit(cohort, [STAY], {})
    with pytest.raises(ValueError, match=f"'death' have 3 rows, the cohort {n}"):
        Calibrator.fit(cohort, [DEATH], {"death": np.zeros(3)})
    with pytest.raises(ValueError, match="coverage must lie between 0 and 1, not 90"):
        Calibrator.fit(cohort, ALL, predictions, coverage=90)
    with pytest.raises(ValueError, match="labels of binary task 'death' must be whole"):
        Calibrator.fit(
            replace(cohort, labels={**cohort.labels, "death": np.full(n, 2.0)}),
            [DEATH],
            predictions,
        )
