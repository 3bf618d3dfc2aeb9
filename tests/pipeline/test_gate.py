"""The gate's statistics on made-up patients whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_core import Calibrator, Cohort, TaskSpec
from m3h_core.metrics import simultaneous_bounds
from m3h_pipeline import gate
from m3h_pipeline.config import GateConfig

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
    predictions = {**chance, "stay": days, "place": place, "kind": np.eye(2)[(space[:, 0] > 0).astype(int)]}
    return cohort, predictions


def noisier(prediction: np.ndarray, seed: int, scale: float) -> np.ndarray:
    """The same with noise on the logit: it ranks worse."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(np.log(prediction / (1 - prediction)) + rng.normal(0, scale, len(prediction)))))


def judge(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: gate.Predictions,
    champion: gate.Champion | None,
    config: GateConfig,
) -> dict:
    """The gate's verdict on a candidate that travels with its own calibrator, where one can be fitted."""
    calibration = np.flatnonzero(cohort.split == 2)
    sound = [task for task in tasks if np.isfinite(candidate[task.name]).all()]
    known = {task.name: candidate[task.name][calibration] for task in sound}
    calibrator = Calibrator.fit(cohort.take(calibration), sound, known)
    return gate.judge(cohort, tasks, candidate, calibrator, champion, config)


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
    harmful = good | {"b0": np.where(men, noisier(good["b0"], 2, 12.0), cohort.labels["b0"] * 0.9 + 0.05)}
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
    found = judge(few, TASKS, good, gate.Champion("3", good), CONFIG)
    assert found["judged"] == 0
    assert "no task has enough test labels" in reason(found, "finite")


def test_equal_candidates_are_seldom_rejected():
    """Two models of the same quality, 30 times: the level bounds how often a check that compares them fails."""
    failed = 0
    tasks = TASKS[:4]
    for seed in range(30):
        cohort, good = hospital(seed, n=600)
        ours, theirs = (
            {task.name: noisier(good[task.name], 100 * seed + 10 * i + j, 0.4) for j, task in enumerate(tasks)}
            for i in range(2)
        )
        found = judge(cohort, tasks, ours, gate.Champion("1", theirs), CONFIG)
        failed += bool([one for one in found["tasks"] if one["state"] == "refuted"])
        failed += not verdicts(found)["no_subgroup_harmed"]
    assert failed <= 3  # of 60, at a level of .05 and with a margin on top


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), t=st.integers(1, 6), shift=st.floats(-5, 5), scale=st.floats(0.01, 10))
def test_bounds_move_and_stretch_with_the_values_and_widen_with_their_number(seed, t, shift, scale):
    rng = np.random.default_rng(seed)
    values, draws = rng.normal(size=t), rng.normal(size=(300, t))
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
