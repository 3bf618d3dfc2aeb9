"""The joint model's kinds of networks, trained in turn or side by side."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from synthetic import TASKS, make_cohort

from m3h_core import Cohort, with_folds
from m3h_core.training.cross_fit import cross_fit
from m3h_core.training.trainer import Stopped
from m3h_pipeline.jobs.joint_model import list_kinds, train_all

CONFIG = {"training": {"seed": 0, "epochs": 2}, "model": {"hidden": (16,)}, "series_steps": 4}
KINDS = ["model", "recurrent"]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    series = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    return with_folds(replace(make_cohort(200), series=series), 3)


def test_a_second_kind_is_trained_where_there_are_time_series(cohort):
    kinds = list_kinds(cohort, TASKS, CONFIG)
    assert list(kinds) == KINDS
    assert kinds["model"].cohort.widths["timeseries"] == 8
    assert kinds["recurrent"].cohort.widths["series"] == 12
    assert kinds["recurrent"].settings.steps == 4
    assert {task.problem for task in kinds["recurrent"].tasks} == {
        "binary",
        "regression",
        "multiclass",
    }
    assert list(list_kinds(replace(cohort, series=None), TASKS, CONFIG)) == ["model"]
    assert list(list_kinds(cohort, TASKS[4:], CONFIG)) == ["model"]  # clusters alone


def test_side_by_side_they_are_the_networks_of_one_after_the_other(cohort):
    kinds = list_kinds(cohort, TASKS[:2], CONFIG)

    def train(folder, stop):
        return cross_fit(kinds[folder].cohort, TASKS[:2], kinds[folder].settings, stop=stop)

    predictions = []
    for side_by_side in (False, True):
        models = train_all(KINDS, train, lambda: False, side_by_side)
        assert list(models) == KINDS
        predictions += [models[name].predict(kinds[name].cohort)["death"] for name in KINDS]
    for alone, together in zip(predictions[:2], predictions[2:], strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_where_one_fails_the_other_stops_and_the_failure_is_told():
    is_waiting = Event()

    def train(folder, stop):
        if folder == "recurrent":
            is_waiting.wait(10)
            raise MemoryError("too large")
        is_waiting.set()
        while not stop():
            pass
        raise Stopped

    with pytest.raises(MemoryError, match="too large"):
        train_all(KINDS, train, lambda: False, side_by_side=True)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_asked_to_stop_both_do(side_by_side):
    asked: list[str] = []

    def train(folder, stop):
        assert stop()
        asked.append(folder)
        raise Stopped

    with pytest.raises(Stopped):
        train_all(KINDS, train, lambda: True, side_by_side)
    assert asked == (KINDS if side_by_side else KINDS[:1])
