"""Intervals: as wide as the prediction asks for, never below what is possible, as often right as
stated.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import betabinom

from m3h_core import Calibrator, Cohort, TaskSpec
from m3h_core.calibration.intervals import compute_spread, fit_spread
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID

STAY = TaskSpec("stay", "regression", unit="days")
SIZES = {TRAIN: 900, VALID: 230, CALIBRATION: 150, TEST: 600}


def to_cohort(target, split):
    n = len(target)
    return Cohort(
        [str(i) for i in range(n)], split, {}, {}, {"stay": target}, {"stay": np.ones(n, bool)}
    )


def draw(kind, seed, sizes=SIZES):
    """A cohort and predictions of it: the means that its labels are drawn around."""
    rng = np.random.default_rng(seed)
    split = np.repeat(list(sizes), list(sizes.values()))
    n = len(split)
    if kind == "symmetric":
        mean = rng.normal(size=n) * 2
        return to_cohort(mean + rng.normal(size=n), split), {"stay": mean}
    mean = rng.lognormal(1.2, 0.6, n)
    noise = rng.gamma(2, 0.5, n) if kind == "gamma" else rng.lognormal(-0.245, 0.7, n)
    return to_cohort(mean * noise, split), {"stay": mean}


def with_one_width(calibrator, cohort, predictions):
    """What it would be without validation labels: the same half-width for all."""
    without = replace(cohort, labelled={"stay": cohort.labelled["stay"] & (cohort.split != VALID)})
    same = Calibrator.fit(without, [STAY], predictions, calibrator.coverage)
    assert same.about["stay"].spread == ()
    return same


def holds(intervals, target):
    return (intervals[:, 0] <= target) & (target <= intervals[:, 1])


@pytest.mark.parametrize("kind", ["gamma", "lognormal"])
def test_coverage_holds_over_all_and_by_predicted_third(kind):
    """Labels whose spread follows their mean. Over all: the beta-binomial count, within 4
    deviations; in each third: within .03 of what is stated, where one width is .1 off.
    """
    n_inside = []
    by_third = []
    of_one_width = []
    widths = []
    for seed in range(40):
        cohort, predictions = draw(kind, seed)
        calibrator = Calibrator.fit(cohort, [STAY], predictions)
        rows = cohort.rows(TEST)
        order = rows[np.argsort(predictions["stay"][rows])]
        target = cohort.labels["stay"][order]
        intervals = calibrator.intervals(predictions)["stay"]
        assert intervals.min() >= 0
        inside = holds(intervals[order], target)
        n_inside.append(inside.sum())
        by_third.append([third.mean() for third in np.array_split(inside, 3)])
        same = with_one_width(calibrator, cohort, predictions).intervals(predictions)["stay"]
        inside = holds(same[order], target)
        of_one_width.append([third.mean() for third in np.array_split(inside, 3)])
        widths.append([np.ptp(intervals, axis=1).mean(), np.ptp(same, axis=1).mean()])
    k = int(np.ceil((SIZES[CALIBRATION] + 1) * 0.9 - 1e-9))
    expected = betabinom(SIZES[TEST], k, SIZES[CALIBRATION] + 1 - k)
    error = np.sqrt(len(n_inside)) * expected.std()
    assert abs(np.sum(n_inside) - len(n_inside) * expected.mean()) < 4 * error
    assert np.mean(by_third, axis=0) == pytest.approx([0.9] * 3, abs=0.03)
    narrower, wider = np.mean(widths, axis=0)
    assert narrower < wider
    assert np.mean(of_one_width, axis=0)[0] > 0.97
    assert np.mean(of_one_width, axis=0)[2] < 0.82


def test_where_errors_do_not_follow_the_prediction_the_width_hardly_does():
    ratios = []
    for seed in range(40):
        cohort, predictions = draw("symmetric", seed)
        calibrator = Calibrator.fit(cohort, [STAY], predictions)
        same = with_one_width(calibrator, cohort, predictions)
        assert calibrator.about["stay"].lowest is None
        width = np.ptp(calibrator.intervals(predictions)["stay"], axis=1).mean()
        ratios.append(width / (2 * same.about["stay"].thresholds[0]))
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)


def test_beyond_all_predictions_the_width_is_that_of_the_nearest():
    cohort, predictions = draw("gamma", 0)
    calibrator = Calibrator.fit(cohort, [STAY], predictions)
    about = calibrator.about["stay"]
    knots = [knot for knot, _ in about.spread]
    ends = calibrator.intervals({"stay": np.array([-50.0, 0.0, knots[-1], 1e9])})["stay"]
    assert np.isfinite(ends).all()
    assert ends[3, 1] - 1e9 == pytest.approx(ends[2, 1] - knots[-1])
    # A stay of -50 days can't be: it counts as one of 0.
    np.testing.assert_array_equal(ends[0], ends[1])
    assert ends[0, 0] == 0
    assert ends[0, 1] == about.thresholds[0] * about.spread[0][1]


def test_one_negative_label_and_nothing_is_cut():
    cohort, predictions = draw("gamma", 1)
    assert Calibrator.fit(cohort, [STAY], predictions).about["stay"].lowest == 0
    labels = cohort.labels["stay"].copy()
    labels[0] = -0.1
    cohort = replace(cohort, labels={"stay": labels})
    calibrator = Calibrator.fit(cohort, [STAY], predictions)
    assert calibrator.about["stay"].lowest is None
    assert calibrator.intervals(predictions)["stay"].min() < 0


def test_with_too_few_labels_ends_are_infinite_but_for_what_is_possible():
    cohort, predictions = draw("gamma", 2, SIZES | {CALIBRATION: 8})
    calibrator = Calibrator.fit(cohort, [STAY], predictions)
    assert not calibrator.about["stay"].covered
    ends = calibrator.intervals(predictions)["stay"]
    assert (ends[:, 0] == 0).all()
    assert np.isinf(ends[:, 1]).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 150), st.data())
def test_any_spread_is_positive_and_finite(n, data):
    """Also of predictions that are made often, and of errors that are 0."""
    values = st.floats(0, 1e6) | st.sampled_from([0.0, 1.0])
    prediction = data.draw(arrays(float, n, elements=values))
    error = data.draw(arrays(float, n, elements=values))
    spread = compute_spread(fit_spread(prediction, error), prediction)
    assert (spread > 0).all()
    assert np.isfinite(spread).all()
    assert (spread <= max(1.0, error.max() * (1 + 1e-9))).all()


def test_it_travels(tmp_path):
    cohort, predictions = draw("lognormal", 3)
    calibrator = Calibrator.fit(cohort, [STAY], predictions)
    assert calibrator.about["stay"].spread
    calibrator.save(tmp_path)
    loaded = Calibrator.load(tmp_path)
    assert loaded == calibrator
    np.testing.assert_array_equal(
        loaded.intervals(predictions)["stay"], calibrator.intervals(predictions)["stay"]
    )


def test_a_file_of_format_1_gives_the_numbers_that_it_gave(tmp_path):
    record = {
        "format": 1,
        "coverage": 0.9,
        "tasks": {
            "death": {
                "problem": "binary",
                "counts": [80, 20],
                "thresholds": [0.4, None],
                "mapped": True,
                "slope": 0.5,
                "offset": 0.25,
            },
            "stay": {
                "problem": "regression",
                "counts": [100],
                "thresholds": [4.7],
                "mapped": False,
                "slope": 1.0,
                "offset": 0.0,
            },
        },
    }
    (tmp_path / "calibrator.json").write_text(json.dumps(record))
    calibrator = Calibrator.load(tmp_path)
    predictions = {"death": np.array([0.1, 0.5]), "stay": np.array([1.5, 30.0], np.float32)}
    assert calibrator.intervals(predictions)["stay"].tolist() == [
        [1.5 - 4.7, 1.5 + 4.7],
        [30.0 - 4.7, 30.0 + 4.7],
    ]
    assert calibrator.sets(predictions)["death"].tolist() == [[True, True], [False, True]]
    odds = np.exp(0.25) * np.array([1 / 9, 1.0]) ** 0.5
    np.testing.assert_allclose(calibrator.calibrated(predictions)["death"], odds / (1 + odds))
