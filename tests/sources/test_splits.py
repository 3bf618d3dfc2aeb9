"""Splits by subject: stable as the hospital grows, near the asked shares."""

import datetime as dt
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Settings
from m3h_pipeline.sources.splits import FRACTIONS, split_of, split_subjects

SUBJECTS = [str(10_000_000 + 37 * i) for i in range(20_000)]


def test_shares_are_near_the_fractions():
    counts = Counter(split_of(subject) for subject in SUBJECTS)
    for split, fraction in enumerate(FRACTIONS):
        assert counts[split] / len(SUBJECTS) == pytest.approx(fraction, abs=0.01)


def test_split_depends_on_the_subject_alone():
    """These must never change: they decide which patients every earlier model has seen."""
    subjects = ("1", "2", "3", "10000032", "a-b", "ä")
    assert [split_of(subject) for subject in subjects] == [0, 2, 0, 0, 2, 0]


def test_other_fractions():
    assert {split_of(subject, (1, 0, 0, 0)) for subject in SUBJECTS} == {0}
    assert {split_of(subject, (0, 0, 0, 1)) for subject in SUBJECTS} == {3}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.6, 0.15, 0.1, 0.1), (1.2, -0.2, 0, 0)])
def test_impossible_fractions(fractions):
    with pytest.raises(InputError, match="sum to 1"):
        Settings(split=fractions)


# Subjects with the day of their latest admission, in days from the beginning.
hospitals = st.dictionaries(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=6), st.integers(0, 3650)
)
START = dt.datetime(2020, 1, 1)


def splits(hospital: dict[str, int], **how) -> dict[str, int]:
    latest = [START + dt.timedelta(days=day) for day in hospital.values()]
    subjects = pl.DataFrame(
        {"subject_id": list(hospital), "latest": latest},
        schema={"subject_id": pl.String, "latest": pl.Datetime("us")},
    )
    return dict(split_subjects(subjects, **how).iter_rows())


@settings(deadline=None)
@given(hospitals, hospitals)
def test_a_patient_never_changes_split_as_the_hospital_grows(before, later):
    """New patients come, and some of the old ones come again."""
    assert splits(before | later) == splits(later) | splits(before)


@settings(deadline=None)
@given(hospitals, hospitals, st.integers(1, 24))
def test_with_a_hold_out_only_who_was_admitted_lately_is_tested(before, later, months):
    grown = {**before, **{subject: day + 3650 for subject, day in later.items()}}
    then = splits(before, holdout_months=months)
    now = splits(grown, holdout_months=months)
    if grown:
        since = pl.Series([START + dt.timedelta(days=max(grown.values()))]).dt.offset_by(
            f"-{months}mo"
        )[0]
        tested = {subject for subject, split in now.items() if split == 3}
        assert tested == {
            subject for subject, day in grown.items() if START + dt.timedelta(days=day) >= since
        }
    # Between the other three nobody moves.
    stays = [subject for subject in then if then[subject] != 3 and now[subject] != 3]
    assert [now[subject] for subject in stays] == [then[subject] for subject in stays]


def test_a_hold_out_leaves_the_shares_of_the_others():
    hospital = dict.fromkeys(SUBJECTS, 0) | {"late": 3650}
    counts = Counter(splits(hospital, holdout_months=6).values())
    assert counts[3] == 1
    for split, fraction in enumerate(FRACTIONS[:3]):
        assert counts[split] / len(SUBJECTS) == pytest.approx(
            fraction / sum(FRACTIONS[:3]), abs=0.01
        )
    with pytest.raises(InputError, match="leave nobody"):
        splits(hospital, holdout_months=6, fractions=(0, 0, 0, 1))
