"""The gate's statistics on made-up patients whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_core import Calibrator, Cohort, TaskSpec
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
from m3h_pipeline.registry.gate.calibrated import chance_of_coverage
from m3h_pipeline.registry.gate.comparisons import (
    Candidate,
    held_against,
    not_worse_than_anchor,
    not_worse_than_arm,
    not_worse_than_champion,
)
from m3h_pipeline.registry.gate.scoring import Pairs

CONFIG = GateConfig(bootstrap=500)
STRICT = GateConfig(bootstrap=500, strict=True)
TASKS = [
    *(TaskSpec(f"b{i}", "binary") for i in range(4)),
    TaskSpec("stay", "regression", unit="days"),
    TaskSpec("place", "multiclass", classes=["home", "facility", "died"]),
    TaskSpec("kind", "clustering", classes=2),
]


def hospital(seed: int = 0, n: int = 1200) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Mostly test, some calibration, a little train; and what a calibrated model would predict."""
    rng = np.random.default_rng(seed)
    space = rng.normal(size=(n, 2)) + np.where(np.arange(n) % 2, 3, -3)[:, None]
    chance = {f"b{i}": 1 / (1 + np.exp(-rng.normal(-0.5, 1.5, n))) for i in range(4)}
    labels = {name: (rng.random(n) < p) * 1.0 for name, p in chance.items()}
    days = rng.gamma(4, 1, n)
    labels["stay"] = days + rng.normal(0, 1, n)
    odds = np.exp(rng.normal(0, 1.5, (n, 3)))
    place = odds / odds.sum(1, keepdims=True)
    labels["place"] = (rng.random((n, 1)) > place.cumsum(1)).sum(1) * 1.0
    labels["kind"] = np.zeros(n)
    cohort = Cohort(
        sample_ids=[str(i) for i in range(n)], split=np.repeat([0, 2, 3], [40, n // 2 - 40, n - n // 2]),
        embeddings={"tabular": space}, present={"tabular": np.ones(n, bool)}, labels=labels,
        labelled={name: np.full(n, name != "kind") for name in labels},
        subject_ids=[str(i // 2) for i in range(n)],
        groups={"sex": ["F" if i % 4 < 2 else "M" for i in range(n)],
                "ward": ["rare" if i >= n - 8 else "usual" for i in range(n)]},
    )  # fmt: skip
    predictions = {
        **chance,
        "stay": days,
        "place": place,
        "kind": np.eye(2)[(space[:, 0] > 0).astype(int)],
    }
    return cohort, predictions


def noisier(prediction: np.ndarray, seed: int, scale: float) -> np.ndarray:
    """The same with noise on the logit: it ranks worse."""
    rng = np.random.default_rng(seed)
    return 1 / (
        1 + np.exp(-(np.log(prediction / (1 - prediction)) + rng.normal(0, scale, len(prediction))))
    )


def judge(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: gate.Predictions,
    champion: gate.Champion | None,
    config: GateConfig,
    **more: Any,
) -> dict:
    """The gate's verdict on a candidate that travels with its own calibrator, where one can be
    fitted.
    """
    calibration = np.flatnonzero(cohort.split == 2)
    sound = [task for task in tasks if np.isfinite(candidate[task.name]).all()]
    known = {task.name: candidate[task.name][calibration] for task in sound}
    calibrator = Calibrator.fit(cohort.take(calibration), sound, known)
    return gate.judge(cohort, tasks, candidate, calibrator, champion, config, **more)


def verdicts(found: dict) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in found["checks"]}


def reason(found: dict, name: str) -> str:
    return next(check["reason"] for check in found["checks"] if check["name"] == name)


def test_the_first_good_candidate_passes_without_a_champion():
    cohort, good = hospital()
    found = judge(cohort, TASKS, good, None, CONFIG)
    assert found["passed"], found["checks"]
    assert found["champion"] is None
    assert found["judged"] == len(TASKS)
    assert list(verdicts(found)) == list(gate.CHECKS)


def test_a_candidate_like_the_champion_is_shown_not_to_be_worse():
    cohort, good = hospital()
    found = judge(cohort, TASKS, good, gate.Champion("3", dict(good)), STRICT)
    assert found["passed"], found["checks"]
    assert {one["state"] for one in found["tasks"]} == {"shown"}
    assert {one["low"] for one in found["tasks"]} == {0.0}


def test_one_task_much_worse_rejects_the_candidate_and_is_named():
    cohort, good = hospital()
    worse = good | {"b1": noisier(good["b1"], 1, 6.0)}
    found = judge(cohort, TASKS, worse, gate.Champion("3", good), CONFIG)
    assert not found["passed"]
    assert not verdicts(found)["not_worse_than_champion"]
    assert "b1" in reason(found, "not_worse_than_champion")
    assert "b2" not in reason(found, "not_worse_than_champion")


def test_all_tasks_slightly_worse_are_rejected_together():
    cohort, good = hospital()
    names = [f"b{i}" for i in range(4)]
    tasks = [task for task in TASKS if task.name in names]
    worse = {name: noisier(good[name], i, 1.4) for i, name in enumerate(names)}
    found = judge(cohort, tasks, worse, gate.Champion("3", good), CONFIG)
    assert not verdicts(found)["not_worse_than_champion"]


def test_what_says_nothing_of_the_patient_is_no_better_than_trivial():
    cohort, good = hospital()
    found = judge(cohort, TASKS, good | {"b0": np.full(len(cohort), 0.4)}, None, CONFIG)
    assert not verdicts(found)["better_than_trivial"]
    assert "b0" in reason(found, "better_than_trivial")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_numbers_are_named(value):
    cohort, good = hospital()
    broken = np.array(good["stay"])
    broken[-1] = value
    found = judge(cohort, TASKS, good | {"stay": broken}, gate.Champion("3", good), CONFIG)
    assert not verdicts(found)["finite"]
    assert reason(found, "finite") == "predictions that are not numbers: stay"


def test_probabilities_that_mean_something_else_on_the_test_split_are_found():
    cohort, good = hospital()
    # The calibration split can't correct what is wrong on the test split alone.
    test = cohort.split == 3
    off = np.where(test, good["b2"] ** 4, good["b2"])
    found = judge(cohort, TASKS, good | {"b2": off}, None, CONFIG)
    assert not verdicts(found)["calibrated"]
    assert "b2" in reason(found, "calibrated")
    assert "b1" not in reason(found, "calibrated")


def test_a_subgroup_that_loses_is_found_although_the_others_gain():
    cohort, good = hospital()
    men = np.array(cohort.groups["sex"]) == "M"
    champion = good | {"b0": noisier(good["b0"], 5, 2.0)}
    harmful = good | {
        "b0": np.where(men, noisier(good["b0"], 2, 12.0), cohort.labels["b0"] * 0.9 + 0.05)
    }
    found = judge(cohort, TASKS, harmful, gate.Champion("3", champion), CONFIG)
    assert verdicts(found)["not_worse_than_champion"]
    assert not verdicts(found)["no_subgroup_harmed"]
    assert "b0 (sex M)" in reason(found, "no_subgroup_harmed")
    assert "sex F" not in reason(found, "no_subgroup_harmed")


def test_groups_of_fewer_than_ten_patients_are_never_named():
    cohort, good = hospital()
    found = judge(cohort, TASKS, good, gate.Champion("3", good), CONFIG)
    assert "1 group of fewer than 10 patients not looked at" in reason(found, "no_subgroup_harmed")
    assert "rare" not in str(found)


def test_a_task_that_only_the_champion_predicts_is_missed():
    cohort, good = hospital()
    fewer = {name: values for name, values in good.items() if name != "stay"}
    tasks = [task for task in TASKS if task.name != "stay"]
    found = judge(cohort, tasks, fewer, gate.Champion("3", good), CONFIG)
    assert reason(found, "not_worse_than_champion") == "the champion (version 3) also predicts stay"
    # A task that is new has nothing to be compared with.
    assert judge(cohort, TASKS, good, gate.Champion("3", fewer), CONFIG)["passed"]


def test_a_champion_that_can_t_be_applied_is_no_reason_to_pass():
    cohort, good = hospital()
    found = judge(cohort, TASKS, good, gate.Champion("3", {}, "its artefacts are gone"), CONFIG)
    assert not found["passed"]
    assert "its artefacts are gone" in reason(found, "not_worse_than_champion")


def test_with_too_few_labels_nothing_is_judged_and_it_says_so():
    cohort, good = hospital()
    few = replace(cohort, split=np.where(np.arange(len(cohort)) < len(cohort) - 20, 2, 3))
    anchor = gate.Champion("1", good)
    arms = {"single_task": good, "trees": good}
    found = judge(few, TASKS, good, gate.Champion("3", good), CONFIG, anchor=anchor, arms=arms)
    assert all(one["passed"] for one in found["checks"])
    assert found["judged"] == 0
    assert "no task has enough test labels" in reason(found, "finite")


def test_equal_candidates_are_seldom_rejected():
    """Two models of the same quality, 30 times: the level bounds how often a check that compares
    them fails.
    """
    failed = 0
    tasks = TASKS[:4]
    for seed in range(30):
        cohort, good = hospital(seed, n=600)
        ours, theirs = (
            {
                task.name: noisier(good[task.name], 100 * seed + 10 * i + j, 0.4)
                for j, task in enumerate(tasks)
            }
            for i in range(2)
        )
        found = judge(cohort, tasks, ours, gate.Champion("1", theirs), CONFIG)
        failed += bool([one for one in found["tasks"] if one["state"] == "refuted"])
        failed += not verdicts(found)["no_subgroup_harmed"]
    assert failed <= 3  # of 60, at a level of .05 and with a margin on top


def check(found: dict, name: str) -> dict:
    return next(one for one in found["checks"] if one["name"] == name)


def test_a_task_whose_own_interval_lies_below_a_constant_s_fails():
    """Its bounds over all tasks at once reach above 0, and it passed as too uncertain to tell."""
    cohort, good = hospital()
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

    found = judge(cohort, TASKS, useless, None, CONFIG, intervals={"stay": (score.low, score.high)})
    assert not found["passed"]
    assert "stay" in reason(found, "better_than_trivial")
    # In the report's own numbers.
    assert wording.format_interval(score.low, score.high) in reason(found, "better_than_trivial")
    assert check(found, "better_than_trivial")["counts"]["refuted"] == 1


def test_a_mean_prediction_is_not_rejected_for_the_chance_of_the_split():
    """R2 of the training mean lies below 0 on any other split, by little."""
    cohort, good = hospital()
    test = np.flatnonzero(cohort.split == 3)
    almost = cohort.labels["stay"][test].mean() + 0.1 * cohort.labels["stay"][test].std()
    near_constant = almost + 1e-6 * np.arange(len(cohort))
    found = judge(cohort, TASKS, good | {"stay": near_constant}, None, CONFIG)
    assert check(found, "better_than_trivial")["counts"]["refuted"] == 0


def test_clearly_below_single_task_fails_and_clearly_below_trees_warns():
    cohort, good = hospital()
    poor = good | {"b1": noisier(good["b1"], 1, 6.0)}
    below_trees = judge(
        cohort, TASKS, poor, None, CONFIG, arms={"single_task": poor, "trees": good}
    )
    assert below_trees["passed"]
    trees = check(below_trees, "not_worse_than_trees")
    assert (trees["passed"], trees["severity"]) == (False, "warn")
    assert "b1" in trees["reason"]
    below_single = judge(
        cohort, TASKS, poor, None, CONFIG, arms={"single_task": good, "trees": poor}
    )
    assert not below_single["passed"]
    assert "b1" in reason(below_single, "not_worse_than_single_task")
    assert "m3h review approve 4" in gate.format_advice(below_single, "4")
    # Looser clusters than those of a network that only clusters are told in the report.
    loose = good | {"kind": np.random.default_rng(2).permutation(good["kind"])}
    clusters = judge(cohort, TASKS, loose, None, CONFIG, arms={"single_task": good, "trees": loose})
    assert check(clusters, "not_worse_than_single_task")["passed"]
    # Trees have no model of a clustering task; what they share is compared.
    trees = {name: values for name, values in good.items() if name != "kind"}
    level = judge(cohort, TASKS, good, None, CONFIG, arms={"single_task": good, "trees": trees})
    assert all(one["passed"] for one in level["checks"])


def test_small_losses_that_add_up_fail_against_the_anchor():
    cohort, good = hospital()
    names = [f"b{i}" for i in range(4)]
    tasks = [task for task in TASKS if task.name in names]
    anchor = {name: good[name] for name in names}
    champion = {name: noisier(good[name], i, 0.6) for i, name in enumerate(names)}
    candidate = {name: noisier(champion[name], 10 + i, 0.15) for i, name in enumerate(names)}
    found = judge(
        cohort,
        tasks,
        candidate,
        gate.Champion("8", champion),
        CONFIG,
        anchor=gate.Champion("1", anchor),
    )
    assert verdicts(found)["not_worse_than_champion"]
    assert not verdicts(found)["not_worse_than_anchor"]
    assert "version 1, the anchor" in reason(found, "not_worse_than_anchor")
    assert not found["passed"]


def test_the_anchor_is_judged_once_where_it_is_the_champion_and_told_where_it_can_t_be_applied():
    cohort, good = hospital()
    champion = gate.Champion("1", good)
    same = judge(cohort, TASKS, good, champion, CONFIG, anchor=champion)
    assert "is the champion, judged there" in reason(same, "not_worse_than_anchor")
    gone = gate.Champion("1", {}, "its artefacts are gone")
    found = judge(cohort, TASKS, good, gate.Champion("2", good), CONFIG, anchor=gone)
    assert found["passed"]
    assert check(found, "not_worse_than_anchor")["severity"] == "warn"
    assert not check(found, "not_worse_than_anchor")["passed"]
    assert "its artefacts are gone" in reason(found, "not_worse_than_anchor")


def test_calibration_is_judged_from_a_minimum_of_labels_on():
    cohort, good = hospital()
    few = np.isin(np.arange(len(cohort)), np.flatnonzero(cohort.split == 3)[:37])
    labelled = cohort.labelled["b2"] & ((cohort.split != 3) | few)
    small = replace(cohort, labelled={**cohort.labelled, "b2": labelled})
    off = good | {"b2": np.where(cohort.split == 3, 0.02 + 0.01 * good["b2"], good["b2"])}
    found = judge(small, TASKS, off, None, CONFIG)
    assert verdicts(found)["calibrated"]
    assert "1 task not judged, fewer than 100 test labels" in reason(found, "calibrated")
    counts = check(found, "calibrated")["counts"]
    states = [one["state"] for one in found["calibration"]]
    assert counts == {
        "judged": 5,
        "above": states.count("above") + states.count("shown"),
        "shown": 0,
        "not judged": 1,
    }
    assert f"{counts['above']} off by more than 0.05 in the estimate" in reason(found, "calibrated")
    # With labels for it the same is found.
    assert not verdicts(judge(cohort, TASKS, off, None, CONFIG))["calibrated"]


def test_coverage_counts_patients_not_their_stays():
    """Sixty patients of ten stays that end alike are not six hundred."""
    rng = np.random.default_rng(0)
    inside = np.repeat(np.arange(60) < 45, 10)
    patients = np.repeat(np.arange(60), 10)
    apart = chance_of_coverage(inside, 0.85, 10_000, np.arange(600))
    together = chance_of_coverage(inside, 0.85, 10_000, patients)
    assert apart < 1e-6 < 0.01 < together
    # Where each patient has one stay nothing changes, and order is of no matter.
    order = rng.permutation(600)
    assert chance_of_coverage(inside[order], 0.85, 10_000, patients[order]) == together


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strict=st.booleans(), noise=st.floats(0.0, 3.0))
def test_a_candidate_equal_to_what_it_is_held_against_never_fails(seed, strict, noise):
    cohort, good = hospital(seed % 7, n=300)
    tasks = TASKS[:5]
    equal = {task.name: good[task.name] for task in tasks}
    equal["b0"] = noisier(good["b0"], seed, noise)
    config = CONFIG.model_copy(update={"strict": strict})
    ours = Candidate.of(cohort, tasks, equal, Resamples(cohort, 3, 500, 0), config)
    champion = gate.Champion("1", equal)
    assert not_worse_than_champion(ours, champion)[1].passed
    assert not_worse_than_anchor(ours, champion, None).passed
    assert not_worse_than_arm(ours, "single_task", equal).passed


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(1, 8),
    more=st.lists(st.floats(0, 0.3), min_size=8, max_size=8),
    strict=st.booleans(),
)
def test_what_loses_more_never_does_better(seed, t, more, strict):
    """Where each task loses as much or more on every resample, no failure turns into a pass."""
    rng = np.random.default_rng(seed)
    values = rng.normal(-0.02, 0.03, t)
    draws = values + rng.normal(0, rng.uniform(0.001, 0.05, t), (500, t))
    config = CONFIG.model_copy(update={"strict": strict})

    def passes(loss: np.ndarray) -> bool:
        named = [(str(i), "AUROC", 0.5 + value, 0.5) for i, value in enumerate(values - loss)]
        pairs = Pairs(named, draws - loss)
        return held_against("a", config, pairs, "version 1", must_be_shown=True)[0].passed

    assert passes(np.zeros(t)) or not passes(np.array(more[:t]))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(1, 6),
    shift=st.floats(-5, 5),
    scale=st.floats(0.01, 10),
)
def test_bounds_move_and_stretch_with_the_values_and_widen_with_their_number(seed, t, shift, scale):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=t)
    draws = rng.normal(size=(300, t))
    draws += values
    low, high = simultaneous_bounds(values, draws)
    assert (low <= values).all()
    assert (values <= high).all()
    moved = simultaneous_bounds(values * scale + shift, draws * scale + shift)
    np.testing.assert_allclose(moved[0], low * scale + shift, rtol=1e-6, atol=1e-6)
    fewer = simultaneous_bounds(values[:1], draws[:, :1])
    assert fewer[0][0] >= low[0] - 1e-12
    assert fewer[1][0] <= high[0] + 1e-12


def test_bounds_hold_for_all_values_at_once_as_often_as_stated():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        sample = rng.normal(size=(80, 10))
        drawn = rng.multinomial(80, np.full(80, 1 / 80), size=400) / 80
        low, _ = simultaneous_bounds(sample.mean(0), drawn @ sample, 0.1)
        held += bool((low <= 0).all())
    assert 0.84 <= held / 200 <= 0.96
