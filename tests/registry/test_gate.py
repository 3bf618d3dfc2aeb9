"""The gate's verdicts on made-up patients whose truth is known."""

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

from m3h_core.metrics import (
    Resamples,
    evaluate_predictions,
    primary_metric,
    primary_replicates,
    simultaneous_bounds,
)
from m3h_pipeline import wording
from m3h_pipeline.config import GateConfig
from m3h_pipeline.registry import gate

STRICT = GateConfig(bootstrap=500, strict=True)


def test_the_first_good_candidate_passes_without_a_champion():
    cohort, good = make_hospital()
    verdict = judge_candidate(cohort, TASKS, good, None, CONFIG)
    assert verdict["passed"], verdict["checks"]
    assert verdict["champion"] is None
    assert verdict["judged"] == len(TASKS)
    assert list(get_outcomes(verdict)) == list(gate.CHECKS)


def test_a_candidate_like_the_champion_is_shown_not_to_be_worse():
    cohort, good = make_hospital()
    verdict = judge_candidate(cohort, TASKS, good, gate.ReferenceModel("3", dict(good)), STRICT)
    assert verdict["passed"], verdict["checks"]
    assert {one["state"] for one in verdict["tasks"]} == {"shown"}
    assert {one["low"] for one in verdict["tasks"]} == {0.0}


def test_one_task_much_worse_rejects_the_candidate_and_is_named():
    cohort, good = make_hospital()
    worse = good | {"b1": add_noise(good["b1"], 1, 6.0)}
    verdict = judge_candidate(cohort, TASKS, worse, gate.ReferenceModel("3", good), CONFIG)
    assert not verdict["passed"]
    assert not get_outcomes(verdict)["not_worse_than_champion"]
    assert "b1" in get_reason(verdict, "not_worse_than_champion")
    assert "b2" not in get_reason(verdict, "not_worse_than_champion")


def test_all_tasks_slightly_worse_are_rejected_together():
    cohort, good = make_hospital()
    names = [f"b{i}" for i in range(4)]
    tasks = [task for task in TASKS if task.name in names]
    worse = {name: add_noise(good[name], i, 1.4) for i, name in enumerate(names)}
    verdict = judge_candidate(cohort, tasks, worse, gate.ReferenceModel("3", good), CONFIG)
    assert not get_outcomes(verdict)["not_worse_than_champion"]


def test_what_says_nothing_of_the_patient_is_no_better_than_trivial():
    cohort, good = make_hospital()
    verdict = judge_candidate(cohort, TASKS, good | {"b0": np.full(len(cohort), 0.4)}, None, CONFIG)
    assert not get_outcomes(verdict)["better_than_trivial"]
    assert "b0" in get_reason(verdict, "better_than_trivial")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_numbers_are_named(value):
    cohort, good = make_hospital()
    broken = np.array(good["stay"])
    broken[-1] = value
    verdict = judge_candidate(
        cohort, TASKS, good | {"stay": broken}, gate.ReferenceModel("3", good), CONFIG
    )
    assert not get_outcomes(verdict)["finite"]
    assert get_reason(verdict, "finite") == "predictions that are not numbers: stay"


def test_probabilities_that_mean_something_else_on_the_test_split_are_found():
    cohort, good = make_hospital()
    # The calibration split can't correct what is wrong on the test split alone.
    test = cohort.split == 3
    off = np.where(test, good["b2"] ** 4, good["b2"])
    verdict = judge_candidate(cohort, TASKS, good | {"b2": off}, None, CONFIG)
    assert not get_outcomes(verdict)["calibrated"]
    assert "b2" in get_reason(verdict, "calibrated")
    assert "b1" not in get_reason(verdict, "calibrated")


def test_a_subgroup_that_loses_is_found_although_the_others_gain():
    cohort, good = make_hospital()
    men = np.array(cohort.groups["sex"]) == "M"
    champion = good | {"b0": add_noise(good["b0"], 5, 2.0)}
    harmful = good | {
        "b0": np.where(men, add_noise(good["b0"], 2, 12.0), cohort.labels["b0"] * 0.9 + 0.05)
    }
    verdict = judge_candidate(cohort, TASKS, harmful, gate.ReferenceModel("3", champion), CONFIG)
    assert get_outcomes(verdict)["not_worse_than_champion"]
    assert not get_outcomes(verdict)["no_subgroup_harmed"]
    assert "b0 (sex M)" in get_reason(verdict, "no_subgroup_harmed")
    assert "sex F" not in get_reason(verdict, "no_subgroup_harmed")


def test_groups_of_fewer_than_ten_patients_are_never_named():
    cohort, good = make_hospital()
    verdict = judge_candidate(cohort, TASKS, good, gate.ReferenceModel("3", good), CONFIG)
    assert "1 group of fewer than 10 patients not looked at" in get_reason(
        verdict, "no_subgroup_harmed"
    )
    assert "rare" not in str(verdict)


def test_a_task_that_only_the_champion_predicts_is_missed():
    cohort, good = make_hospital()
    fewer = {name: values for name, values in good.items() if name != "stay"}
    tasks = [task for task in TASKS if task.name != "stay"]
    verdict = judge_candidate(cohort, tasks, fewer, gate.ReferenceModel("3", good), CONFIG)
    assert (
        get_reason(verdict, "not_worse_than_champion")
        == "the champion (version 3) also predicts stay"
    )
    # A task that is new has nothing to be compared with.
    assert judge_candidate(cohort, TASKS, good, gate.ReferenceModel("3", fewer), CONFIG)["passed"]


def test_a_champion_that_can_t_be_applied_is_no_reason_to_pass():
    cohort, good = make_hospital()
    verdict = judge_candidate(
        cohort, TASKS, good, gate.ReferenceModel("3", {}, "its artefacts are gone"), CONFIG
    )
    assert not verdict["passed"]
    assert "its artefacts are gone" in get_reason(verdict, "not_worse_than_champion")


def test_with_too_few_labels_nothing_is_judged_and_it_says_so():
    cohort, good = make_hospital()
    few = replace(cohort, split=np.where(np.arange(len(cohort)) < len(cohort) - 20, 2, 3))
    anchor = gate.ReferenceModel("1", good)
    arms = {"single_task": good, "trees": good}
    verdict = judge_candidate(
        few, TASKS, good, gate.ReferenceModel("3", good), CONFIG, anchor=anchor, arms=arms
    )
    assert all(one["passed"] for one in verdict["checks"])
    assert verdict["judged"] == 0
    assert "no task has enough labels" in get_reason(verdict, "finite")


def test_a_task_whose_own_interval_lies_below_a_constant_s_fails():
    """Its bounds over all tasks at once reach above 0, and it passed as too uncertain to tell."""
    cohort, good = make_hospital()
    rng = np.random.default_rng(1)
    few = np.flatnonzero(cohort.split == 3)[:34]
    labelled = cohort.labelled["stay"] & (
        (cohort.split != 3) | np.isin(np.arange(len(cohort)), few)
    )
    cohort = replace(cohort, labelled={**cohort.labelled, "stay": labelled})
    days = cohort.labels["stay"]
    useless = good | {"stay": days.mean() + rng.normal(0, 0.8, len(days)) * days.std()}
    task = TASKS[4]
    score = evaluate_predictions(cohort, [task], useless)["stay"]
    assert score.high < 0
    draws = Resamples(cohort, 3, CONFIG.bootstrap, 0)
    scored = [primary_replicates(cohort, one, useless[one.name], draws) for one in TASKS]
    gains = np.stack(scored, axis=1) - [0.5, 0.5, 0.5, 0.5, 0, 0.5, 0]
    values = np.array([primary_metric(cohort, one, useless[one.name]) for one in TASKS])
    _, highs = simultaneous_bounds(values - [0.5, 0.5, 0.5, 0.5, 0, 0.5, 0], gains)
    assert highs[4] > 0  # what let it pass

    verdict = judge_candidate(
        cohort, TASKS, useless, None, CONFIG, intervals={"stay": (score.low, score.high)}
    )
    assert not verdict["passed"]
    assert "stay" in get_reason(verdict, "better_than_trivial")
    # In the report's own numbers.
    assert wording.format_interval(score.low, score.high) in get_reason(
        verdict, "better_than_trivial"
    )
    assert get_check(verdict, "better_than_trivial")["counts"]["refuted"] == 1


def test_a_mean_prediction_is_not_rejected_for_the_chance_of_the_split():
    """R2 of the training mean lies below 0 on any other split, by little."""
    cohort, good = make_hospital()
    test = np.flatnonzero(cohort.split == 3)
    almost = cohort.labels["stay"][test].mean() + 0.1 * cohort.labels["stay"][test].std()
    near_constant = almost + 1e-6 * np.arange(len(cohort))
    verdict = judge_candidate(cohort, TASKS, good | {"stay": near_constant}, None, CONFIG)
    assert get_check(verdict, "better_than_trivial")["counts"]["refuted"] == 0


def test_clearly_below_single_task_or_trees_fails():
    cohort, good = make_hospital()
    poor = good | {"b1": add_noise(good["b1"], 1, 6.0)}
    below_trees = judge_candidate(
        cohort, TASKS, poor, None, CONFIG, arms={"single_task": poor, "trees": good}
    )
    assert not below_trees["passed"]
    trees = get_check(below_trees, "not_worse_than_trees")
    assert (trees["passed"], trees["severity"]) == (False, "error")
    assert "b1" in trees["reason"]
    below_single = judge_candidate(
        cohort, TASKS, poor, None, CONFIG, arms={"single_task": good, "trees": poor}
    )
    assert not below_single["passed"]
    assert "b1" in get_reason(below_single, "not_worse_than_single_task")
    assert "m3h review approve 4" in gate.format_advice(below_single, "4")
    # Looser clusters than those of a network that only clusters are told in the report.
    loose = good | {"kind": np.random.default_rng(2).permutation(good["kind"])}
    clusters = judge_candidate(
        cohort, TASKS, loose, None, CONFIG, arms={"single_task": good, "trees": loose}
    )
    assert get_check(clusters, "not_worse_than_single_task")["passed"]
    # Trees have no model of a clustering task; what they share is compared.
    trees = {name: values for name, values in good.items() if name != "kind"}
    level = judge_candidate(
        cohort, TASKS, good, None, CONFIG, arms={"single_task": good, "trees": trees}
    )
    assert all(one["passed"] for one in level["checks"])


def test_small_losses_that_add_up_fail_against_the_anchor():
    cohort, good = make_hospital()
    names = [f"b{i}" for i in range(4)]
    tasks = [task for task in TASKS if task.name in names]
    anchor = {name: good[name] for name in names}
    champion = {name: add_noise(good[name], i, 0.6) for i, name in enumerate(names)}
    candidate = {name: add_noise(champion[name], 10 + i, 0.15) for i, name in enumerate(names)}
    verdict = judge_candidate(
        cohort,
        tasks,
        candidate,
        gate.ReferenceModel("8", champion),
        CONFIG,
        anchor=gate.ReferenceModel("1", anchor),
    )
    assert get_outcomes(verdict)["not_worse_than_champion"]
    assert not get_outcomes(verdict)["not_worse_than_anchor"]
    assert "version 1, the anchor" in get_reason(verdict, "not_worse_than_anchor")
    assert not verdict["passed"]


def test_the_anchor_is_judged_once_where_it_is_the_champion_and_told_where_it_can_t_be_applied():
    cohort, good = make_hospital()
    champion = gate.ReferenceModel("1", good)
    same = judge_candidate(cohort, TASKS, good, champion, CONFIG, anchor=champion)
    assert "is the champion, judged there" in get_reason(same, "not_worse_than_anchor")
    unusable = gate.ReferenceModel("1", {}, "its artefacts are gone")
    verdict = judge_candidate(
        cohort, TASKS, good, gate.ReferenceModel("2", good), CONFIG, anchor=unusable
    )
    assert verdict["passed"]
    assert get_check(verdict, "not_worse_than_anchor")["severity"] == "warn"
    assert not get_check(verdict, "not_worse_than_anchor")["passed"]
    assert "its artefacts are gone" in get_reason(verdict, "not_worse_than_anchor")


def test_calibration_is_judged_from_a_minimum_of_labels_on():
    cohort, good = make_hospital()
    few = np.isin(np.arange(len(cohort)), np.flatnonzero(cohort.split == 3)[:37])
    labelled = cohort.labelled["b2"] & ((cohort.split != 3) | few)
    small = replace(cohort, labelled={**cohort.labelled, "b2": labelled})
    off = good | {"b2": np.where(cohort.split == 3, 0.02 + 0.01 * good["b2"], good["b2"])}
    verdict = judge_candidate(small, TASKS, off, None, CONFIG)
    assert get_outcomes(verdict)["calibrated"]
    assert "1 task not judged, fewer than 100 labels" in get_reason(verdict, "calibrated")
    counts = get_check(verdict, "calibrated")["counts"]
    states = [one["state"] for one in verdict["calibration"]]
    assert counts == {
        "judged": 5,
        "above": states.count("above") + states.count("shown"),
        "shown": 0,
        "not judged": 1,
    }
    assert f"{counts['above']} off by more than 0.05 in the estimate" in get_reason(
        verdict, "calibrated"
    )
    # With labels for it the same is verdict.
    assert not get_outcomes(judge_candidate(cohort, TASKS, off, None, CONFIG))["calibrated"]
