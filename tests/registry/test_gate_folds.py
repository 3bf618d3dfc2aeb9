"""The gate on a cross-fitted cohort: each version is judged by the patients that it did not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_hospital import (
    CONFIG,
    TASKS,
    add_noise,
    get_check,
    get_outcomes,
    get_reason,
    judge_candidate,
    make_hospital,
)

from m3h_core import Cohort, EnsembleModel, FitConfig, FittedModel, cross_fit, with_folds
from m3h_core.data.cohort import TEST
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import FoldMixtures
from m3h_core.metrics import primary_metric
from m3h_core.training.cross_fit import cross_fit_trees
from m3h_pipeline.jobs.champion import count_folds, find_unseen_rows
from m3h_pipeline.registry import gate
from m3h_pipeline.registry.gate import Predictions

B1 = TASKS[1]
COMPARED = ("not_worse_than_champion", "not_worse_than_anchor", "no_subgroup_harmed")


@pytest.fixture(scope="module")
def hospital() -> tuple[Cohort, Predictions]:
    """Half of the patients are in the test split."""
    cohort, good = make_hospital()
    return with_folds(cohort, 3), good


def hide_seen(cohort: Cohort, predictions: Predictions) -> Predictions:
    """Predictions as the job "champion" writes them of a version without folds."""
    hidden = {name: np.array(values) for name, values in predictions.items()}
    for values in hidden.values():
        values[cohort.split != TEST] = np.nan
    return hidden


def spoil(prediction: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same, of no use on these rows [N]."""
    return np.where(rows, add_noise(prediction, 1, 6.0), prediction)


def test_the_first_good_candidate_passes_by_every_patient(hospital):
    cohort, good = hospital
    verdict = judge_candidate(cohort, TASKS, good, None, CONFIG)
    assert verdict["passed"], verdict["checks"]
    assert verdict["judged"] == len(TASKS)


@pytest.mark.parametrize("has_folds", [False, True])
def test_a_champion_is_compared_on_what_it_did_not_see(hospital, has_folds):
    """Without folds on the test split alone, where both are alike; with folds on all patients, of
    whom the others say that the candidate is worse.
    """
    cohort, good = hospital
    is_outside = cohort.split != TEST
    candidate = good | {"b1": spoil(good["b1"], is_outside)}
    predictions = good if has_folds else hide_seen(cohort, good)
    champion = gate.ReferenceModel("3", predictions, has_folds=has_folds)
    verdict = judge_candidate(cohort, TASKS, candidate, champion, CONFIG)
    assert get_outcomes(verdict)["not_worse_than_champion"] is not has_folds
    compared = {one["task"]: one for one in verdict["tasks"]}
    assert set(compared) == {task.name for task in TASKS}
    if not has_folds:
        assert all(one["value"] == one["other"] for one in compared.values())
        return
    assert "b1" in get_reason(verdict, "not_worse_than_champion")
    for name, predicted in (("value", candidate), ("other", good)):
        expected = primary_metric(cohort, B1, predicted["b1"])
        assert compared["b1"][name] == pytest.approx(expected, abs=1e-6)


def test_a_champion_without_folds_is_still_found_to_be_better(hospital):
    cohort, good = hospital
    candidate = good | {"b1": spoil(good["b1"], cohort.split == TEST)}
    champion = gate.ReferenceModel("3", hide_seen(cohort, good))
    verdict = judge_candidate(cohort, TASKS, candidate, champion, CONFIG)
    assert not get_outcomes(verdict)["not_worse_than_champion"]
    assert "b1" in get_reason(verdict, "not_worse_than_champion")
    single = replace(cohort, fold=None)
    (compared,) = (one for one in verdict["tasks"] if one["task"] == "b1")
    for name, predicted in (("value", candidate), ("other", good)):
        expected = primary_metric(single, B1, predicted["b1"])
        assert compared[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_folds", [False, True])
def test_a_comparison_on_the_test_split_alone_says_so(hospital, has_folds):
    cohort, good = hospital
    predictions = good if has_folds else hide_seen(cohort, good)
    other = gate.ReferenceModel("3", predictions, has_folds=has_folds)
    anchor = replace(other, version="1")
    verdict = judge_candidate(cohort, TASKS, good, other, CONFIG, anchor=anchor)
    narrowed = "on the test split alone, since that version was trained without folds"
    for name in COMPARED:
        assert (narrowed in get_reason(verdict, name)) is not has_folds
    assert "test split" not in get_reason(verdict, "better_than_trivial")


def test_subgroups_and_the_anchor_are_narrowed_too(hospital):
    cohort, good = hospital
    is_man = np.array(cohort.groups["sex"]) == "M"
    is_tested = cohort.split == TEST
    candidate = good | {"b0": spoil(good["b0"], is_man & is_tested)}
    old = gate.ReferenceModel("1", hide_seen(cohort, good))
    verdict = judge_candidate(cohort, TASKS, candidate, old, CONFIG)
    assert "b0 (sex M)" in get_reason(verdict, "no_subgroup_harmed")
    assert "rare" not in str(verdict)
    # The anchor is of before the folds, the champion is not.
    champion = gate.ReferenceModel("2", good, has_folds=True)
    verdict = judge_candidate(cohort, TASKS, good, champion, CONFIG, anchor=old)
    assert verdict["passed"], verdict["checks"]
    assert get_check(verdict, "not_worse_than_anchor")["passed"]
    spoiled = good | {"b1": spoil(good["b1"], is_tested)}
    verdict = judge_candidate(cohort, TASKS, spoiled, champion, CONFIG, anchor=old)
    assert not get_outcomes(verdict)["not_worse_than_anchor"]


def test_arms_and_calibration_are_judged_by_all(hospital):
    cohort, good = hospital
    is_outside = cohort.split != TEST
    poor = good | {"b1": spoil(good["b1"], is_outside)}
    arms = {"single_task": good, "trees": poor}
    verdict = judge_candidate(cohort, TASKS, poor, None, CONFIG, arms=arms)
    assert "b1" in get_reason(verdict, "not_worse_than_single_task")
    # The calibrators of two folds that are right don't correct the third.
    off = good | {"b2": np.where(cohort.fold == 0, good["b2"] ** 4, good["b2"])}
    verdict = judge_candidate(cohort, TASKS, off, None, CONFIG)
    assert not get_outcomes(verdict)["calibrated"]
    assert "b2" in get_reason(verdict, "calibrated")


def test_a_version_predicts_what_it_did_not_see(hospital):
    cohort, _ = hospital
    tasks = TASKS[:1]
    networks = cross_fit(cohort, tasks, FitConfig(hidden=(4,), members=1, epochs=1))
    trees = cross_fit_trees(cohort, tasks, rounds=1, workers=1)
    model = EnsembleModel.combine(networks, trees, cohort)
    single = EnsembleModel(
        FoldModels(networks.models[:1]),
        FoldModels(trees.models[:1]),
        FoldMixtures(model.mixtures.of_all),
    )
    network: FittedModel = networks.models[0]
    tested = np.flatnonzero(cohort.split == TEST)
    without = replace(cohort, fold=None)
    for one, n_folds in ((model, 3), (single, 1), (network, 1)):
        assert count_folds(one) == n_folds
        expected = np.arange(len(cohort)) if n_folds > 1 else tested
        np.testing.assert_array_equal(find_unseen_rows(cohort, one), expected)
        # What is judged of a night without folds is its test split.
        np.testing.assert_array_equal(find_unseen_rows(without, one), tested)
