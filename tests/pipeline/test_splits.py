"""Splits by subject: stable as the hospital grows, near the asked shares."""

from collections import Counter

import pytest

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Settings
from m3h_pipeline.sources.splits import FRACTIONS, split_of

SUBJECTS = [str(10_000_000 + 37 * i) for i in range(20_000)]


def test_shares_are_near_the_fractions():
    counts = Counter(split_of(subject) for subject in SUBJECTS)
    for split, fraction in enumerate(FRACTIONS):
        assert counts[split] / len(SUBJECTS) == pytest.approx(fraction, abs=0.01)


def test_split_depends_on_the_subject_alone():
    """These must never change: they decide which patients every earlier model has seen."""
    assert [split_of(subject) for subject in ("1", "2", "3", "10000032", "a-b", "ä")] == [0, 2, 0, 0, 2, 0]


def test_other_fractions():
    assert {split_of(subject, (1, 0, 0, 0)) for subject in SUBJECTS} == {0}
    assert {split_of(subject, (0, 0, 0, 1)) for subject in SUBJECTS} == {3}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.6, 0.15, 0.1, 0.1), (1.2, -0.2, 0, 0)])
def test_impossible_fractions(fractions):
    with pytest.raises(InputError, match="sum to 1"):
        Settings(split=fractions)
