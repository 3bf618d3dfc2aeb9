"""The gate on a cross-fitted cohort: all patients, or as many as the other version did not see."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_hospital import CONFIG, TASKS, get_outcomes, get_reason, make_hospital

from m3h_core import Cohort, FoldCalibrators, with_folds
from m3h_core.metrics import primary_metric
from m3h_pipeline.registry import gate

COMPARED = ("not_worse_than_champion", "not_worse_than_anchor", "no_subgroup_harmed")


@pytest.fixture(scope="module")
def hospital() -> tuple[Cohort, dict[str, np.ndarray]]:
    cohort, good = make_hospital()
    return with_folds(cohort, 3), good


def judge(hospital: tuple[Cohort, dict[str, np.ndarray]], other: gate.ReferenceModel) -> dict:
    """The verdict on the good candidate beside another version, as champion and as anchor."""
    cohort, good = hospital
    calibrator = FoldCalibrators.fit(cohort, TASKS, good)
    anchor = gate.ReferenceModel("1", other.predictions, has_folds=other.has_folds)
    return gate.judge(cohort, TASKS, good, calibrator, other, CONFIG, anchor=anchor)


def test_a_version_with_folds_is_compared_on_every_patient(hospital):
    cohort, good = hospital
    verdict = judge(hospital, gate.ReferenceModel("3", good, has_folds=True))
    assert verdict["passed"], verdict["checks"]
    values = {one["task"]: one["value"] for one in verdict["tasks"]}
    assert values["b0"] == round(primary_metric(cohort, TASKS[0], good["b0"]), 6)
    assert not any("test split" in get_reason(verdict, name) for name in COMPARED)


def test_one_without_folds_is_compared_on_the_test_split_alone_and_it_says_so(hospital):
    cohort, good = hospital
    is_test = cohort.split == 3
    # As the job "champion" writes them: it may have seen all others.
    applied = {}
    for name, values in good.items():
        applied[name] = np.where(is_test if values.ndim == 1 else is_test[:, None], values, np.nan)
    verdict = judge(hospital, gate.ReferenceModel("3", applied))
    assert verdict["passed"], verdict["checks"]
    assert get_outcomes(verdict)["not_worse_than_champion"]
    by_test = cohort.take(np.flatnonzero(is_test))
    values = {one["task"]: one["value"] for one in verdict["tasks"]}
    expected = primary_metric(with_folds(by_test, 0), TASKS[0], good["b0"][is_test])
    assert values["b0"] == round(expected, 6)
    for name in COMPARED:
        assert "on the test split alone, since that version was trained without folds" in (
            get_reason(verdict, name)
        )
    assert "test split" not in get_reason(verdict, "better_than_trivial")
