"""A cohort's series: it goes where its samples go, and takes the place of the statistics."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import make_cohort

from m3h_core import Cohort, with_folds


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    series = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    return with_folds(replace(make_cohort(60), series=series), 3)


def test_it_follows_its_samples_and_is_kept_on_disk(cohort, tmp_path):
    rows = np.array([5, 3, 40])
    part = cohort.take(rows)
    np.testing.assert_array_equal(part.series, cohort.series[rows])
    np.testing.assert_array_equal(cohort.for_fold(1).series, cohort.series)
    cohort.save(tmp_path)
    assert Cohort.load(tmp_path).series.tobytes() == cohort.series.tobytes()
    replace(cohort, series=None).save(tmp_path)
    assert Cohort.load(tmp_path).series is None


def test_it_takes_the_place_of_the_statistics_and_is_missing_where_they_are(cohort):
    read = cohort.with_series()
    assert read.series is None
    assert list(read.embeddings) == ["tabular", "series", "language", "vision"]
    assert read.widths["series"] == 12
    np.testing.assert_array_equal(read.present["series"], cohort.present["timeseries"])
    nobody = np.zeros(len(cohort), dtype=bool)
    without = replace(cohort, present={**cohort.present, "timeseries": nobody})
    assert not without.with_series().present["series"].any()


def test_a_cohort_without_one_says_so(cohort):
    with pytest.raises(ValueError, match="the cohort has no series"):
        replace(cohort, series=None).with_series()
    others = {name: v for name, v in cohort.embeddings.items() if name != "timeseries"}
    present = {name: cohort.present[name] for name in others}
    with pytest.raises(ValueError, match="or not the modality 'timeseries'"):
        replace(cohort, embeddings=others, present=present).with_series()


@pytest.mark.parametrize(
    ("series", "says"),
    [
        (np.zeros((59, 12)), "series has 59 rows, expected 60"),
        (np.zeros(60), r"series must be \[N, F\]"),
        (np.full((60, 12), np.nan), "series has values that are not finite"),
    ],
)
def test_a_wrong_one_is_refused(cohort, series, says):
    with pytest.raises(ValueError, match=says):
        replace(cohort, series=series)
