"""Folds: a subject's never changes, and a fold's model is given nothing of its subjects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from synthetic import make_cohort

from m3h_core import Cohort, with_folds
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID
from m3h_core.data.folds import assign_folds
from m3h_pipeline.sources.splits import split_of

SUBJECTS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30)
N_FOLDS = st.integers(1, 100)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return with_folds(make_cohort(300), 3)


@settings(max_examples=40, deadline=None)
@given(SUBJECTS, SUBJECTS, N_FOLDS, st.randoms(use_true_random=False))
def test_a_subject_s_fold_never_changes_as_the_hospital_grows(earlier, later, n_folds, random):
    before = dict(zip(earlier, assign_folds(earlier, n_folds), strict=True))
    everyone = [*earlier, *later]
    random.shuffle(everyone)
    after = assign_folds(everyone, n_folds)
    assert after.dtype == np.int8
    assert (after >= 0).all()
    assert (after < n_folds).all()
    # Every stay of a subject lies in one fold, whoever else is there.
    for subject, fold in zip(everyone, after, strict=True):
        assert before.get(subject, fold) == fold
        assert assign_folds([subject], n_folds)[0] == fold


def test_folds_are_of_like_size_and_say_nothing_of_the_split():
    """The same hash for both would give a fold's model the test split of another share."""
    subjects = [str(10_000_000 + i) for i in range(6000)]
    fold = assign_folds(subjects, 3)
    split = np.array([split_of(subject) for subject in subjects])
    table = [np.bincount(split[fold == one], minlength=4) for one in range(3)]
    assert np.sum(table, axis=1).tolist() == pytest.approx([2000] * 3, rel=0.06)
    assert chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("n_folds", [0, 101])
def test_a_number_of_folds_that_makes_no_sense_is_refused(n_folds):
    with pytest.raises(ValueError, match=f"1 to 100 folds, not {n_folds}"):
        assign_folds(["a"], n_folds)


def test_a_fold_s_cohort_trains_on_all_others_and_keeps_their_validation_split(cohort):
    for fold in range(3):
        part = cohort.for_fold(fold)
        is_of_fold = cohort.fold == fold
        assert part.fold is None
        assert np.array_equal(part.split == TEST, is_of_fold)
        assert np.array_equal(part.split == VALID, ~is_of_fold & (cohort.split == VALID))
        assert np.array_equal(part.split == TRAIN, ~is_of_fold & (cohort.split != VALID))
        read = np.flatnonzero(part.split != TEST)
        assert set(cohort.subjects[is_of_fold]).isdisjoint(cohort.subjects[read])
        assert np.array_equal(cohort.rows_of_fold(fold), part.rows(TEST))


def test_every_sample_is_judged_once(cohort):
    judged = np.concatenate([cohort.rows_of_fold(fold) for fold in range(cohort.n_folds)])
    assert np.array_equal(np.sort(judged), np.arange(len(cohort)))
    assert np.array_equal(cohort.rows(TEST), np.arange(len(cohort)))
    # Of the other splits only their own rows, which encoders are fitted on.
    for split in (TRAIN, VALID, CALIBRATION):
        assert np.array_equal(cohort.rows(split), np.flatnonzero(cohort.split == split))


@pytest.mark.parametrize("n_folds", [0, 1])
def test_below_two_folds_the_test_split_is_judged(n_folds):
    cohort = with_folds(make_cohort(60), n_folds)
    assert cohort.fold is None
    assert cohort.n_folds == 1
    assert cohort.for_fold(0) is cohort
    assert np.array_equal(cohort.rows_of_fold(0), np.flatnonzero(cohort.split == TEST))


def test_so_few_subjects_that_a_fold_would_be_empty_are_not_cross_fitted():
    few = make_cohort(8)  # four subjects
    assert with_folds(few, 20).fold is None
    assert with_folds(make_cohort(400), 20).n_folds == 20


def test_folds_travel_and_are_taken_along(cohort, tmp_path):
    cohort.save(tmp_path / "folds")
    loaded = Cohort.load(tmp_path / "folds")
    assert loaded.fold.dtype == np.int8
    assert np.array_equal(loaded.fold, cohort.fold)
    rows = np.array([7, 3, 200])
    assert np.array_equal(cohort.take(rows).fold, cohort.fold[rows])
    without = replace(cohort, fold=None)
    without.save(tmp_path / "none")
    assert Cohort.load(tmp_path / "none").fold is None
    assert without.take(rows).fold is None


def test_folds_that_do_not_fit_the_samples_are_refused(cohort):
    with pytest.raises(ValueError, match="fold has 3 rows, expected 300"):
        replace(cohort, fold=np.zeros(3, dtype=np.int8))
    with pytest.raises(ValueError, match="fold must be 0 or more"):
        replace(cohort, fold=np.full(300, -1, dtype=np.int8))
