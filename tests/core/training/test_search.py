"""The search: the better configuration wins, on validation rows alone."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import SMALL, SUPERVISED, TASKS, make_cohort

from m3h_core import tune
from m3h_core.data.cohort import CALIBRATION, TEST

BLIND = {"linear_path": False, "learning_rate": 1e-9}


def test_the_better_configuration_comes_first():
    seen = []
    base = replace(SMALL, **BLIND, epochs=3)
    trials = tune(
        make_cohort(),
        TASKS,
        base,
        changes=[{"dropout": 0.5}, {"linear_path": True}],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert trials[0].config == replace(base, linear_path=True)
    assert trials[0].skill > trials[1].skill + 0.2
    assert trials[0].model.config == trials[0].config
    assert seen[-1] == (3, 3)


def test_calibration_and_test_rows_do_not_matter():
    cohort = make_cohort()
    other = np.isin(cohort.split, [CALIBRATION, TEST])
    labels = {name: np.where(other, 0.0, values) for name, values in cohort.labels.items()}
    a, b = (
        tune(c, SUPERVISED, replace(SMALL, epochs=2))
        for c in (cohort, replace(cohort, labels=labels))
    )
    assert [(t.config, t.skill) for t in a] == [(t.config, t.skill) for t in b]


def test_nothing_to_judge_by_is_an_error():
    cohort = make_cohort(200)
    blind = {name: mask & (cohort.split != 1) for name, mask in cohort.labelled.items()}
    with pytest.raises(ValueError, match="validation labels"):
        tune(replace(cohort, labelled=blind), SUPERVISED, replace(SMALL, epochs=1), changes=[])
