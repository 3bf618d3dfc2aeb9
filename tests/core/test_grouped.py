"""Intervals over rows that are grouped by subject."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, sem, t

from m3h_core import ObservedCoverage, TaskSpec
from m3h_core.grouped import effective_count, mean_interval, share_interval


@settings(max_examples=50, deadline=None)
@given(
    part=st.integers(0, 40),
    rest=st.integers(0, 40),
    method=st.sampled_from(["exact", "wilson"]),
)
def test_rows_that_stand_alone_give_the_textbook_s_intervals(part, rest, method):
    if part + rest == 0:
        return
    happened = np.arange(part + rest) < part
    expected = binomtest(part, part + rest).proportion_ci(method=method)
    low, high = share_interval(happened, np.arange(part + rest), method)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), subjects=st.integers(2, 30), stays=st.integers(2, 5))
def test_stays_that_only_repeat_one_another_add_nothing(seed, subjects, stays):
    rng = np.random.default_rng(seed)
    once = rng.random(subjects) < 0.5
    values = rng.normal(size=subjects)
    whose = np.repeat(np.arange(subjects), stays)
    repeated = np.repeat(once, stays)
    assert effective_count(repeated, whose) == pytest.approx(subjects)
    one_each = share_interval(once, np.arange(subjects))
    assert share_interval(repeated, whose) == pytest.approx(one_each)
    once_each = mean_interval(values, range(subjects))
    assert mean_interval(np.repeat(values, stays), whose) == pytest.approx(once_each)
    reach = t.ppf(0.975, subjects - 1) * sem(values)
    assert once_each == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_a_patient_s_many_stays_leave_the_interval_as_often_right_as_stated():
    """Some patients have many stays that end alike; each for itself it is far too seldom right."""
    rng = np.random.default_rng(0)
    grouped = 0
    alone = 0
    task = TaskSpec("stay", "regression", unit="days")
    for _ in range(200):
        sizes = rng.choice([1, 2, 10], size=80)
        whose = np.repeat(np.arange(80), sizes)
        of_patient = rng.random(80) < 0.8
        own = rng.random(len(whose)) < 0.8
        inside = np.where(rng.random(len(whose)) < 0.7, of_patient[whose], own)
        intervals = np.column_stack([np.zeros(len(whose)), np.where(inside, 2.0, 0.5)])
        target = np.ones(len(whose))
        observed = ObservedCoverage.of(task, target, intervals, whose)
        each = ObservedCoverage.of(task, target, intervals)
        grouped += observed.low <= 0.8 <= observed.high
        alone += each.low <= 0.8 <= each.high
    assert grouped / 200 > 0.9
    assert alone / 200 < 0.75
