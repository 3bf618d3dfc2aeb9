"""The gate's statistics: levels, bounds, and what must hold whatever the predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_hospital import (
    CONFIG,
    TASKS,
    add_noise,
    get_outcomes,
    judge_candidate,
    make_hospital,
)

from m3h_core import TaskSpec
from m3h_core.metrics import (
    Resamples,
    simultaneous_bounds,
)
from m3h_pipeline.registry import gate
from m3h_pipeline.registry.gate.calibration import compute_coverage_p_value
from m3h_pipeline.registry.gate.comparisons import (
    Candidate,
    check_not_worse_than_anchor,
    check_not_worse_than_arm,
    check_not_worse_than_champion,
    compare_with,
)
from m3h_pipeline.registry.gate.scoring import PairedScores


def add_noise_to_all(
    predictions: dict[str, np.ndarray], tasks: Sequence[TaskSpec], seed: int
) -> dict[str, np.ndarray]:
    return {
        task.name: add_noise(predictions[task.name], seed + i, 0.4) for i, task in enumerate(tasks)
    }


def test_equal_candidates_are_seldom_rejected():
    """Two models of the same quality, 30 times: the level bounds how often a check that compares
    them fails.
    """
    failed = 0
    tasks = TASKS[:4]
    for seed in range(30):
        cohort, good = make_hospital(seed, n=600)
        candidate = add_noise_to_all(good, tasks, 100 * seed)
        champion = add_noise_to_all(good, tasks, 100 * seed + 10)
        verdict = judge_candidate(
            cohort, tasks, candidate, gate.ReferenceModel("1", champion), CONFIG
        )
        failed += bool([one for one in verdict["tasks"] if one["state"] == "refuted"])
        failed += not get_outcomes(verdict)["no_subgroup_harmed"]
    assert failed <= 3  # of 60, at a level of .05 and with a margin on top


def test_coverage_counts_patients_not_their_stays():
    """Sixty patients of ten stays that end alike are not six hundred."""
    rng = np.random.default_rng(0)
    inside = np.repeat(np.arange(60) < 45, 10)
    patients = np.repeat(np.arange(60), 10)
    apart = compute_coverage_p_value(inside, 0.85, 10_000, np.arange(600))
    together = compute_coverage_p_value(inside, 0.85, 10_000, patients)
    assert apart < 1e-6 < 0.01 < together
    # Where each patient has one stay nothing changes, and order is of no matter.
    order = rng.permutation(600)
    assert compute_coverage_p_value(inside[order], 0.85, 10_000, patients[order]) == together


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strict=st.booleans(), noise=st.floats(0.0, 3.0))
def test_a_candidate_equal_to_what_it_is_held_against_never_fails(seed, strict, noise):
    cohort, good = make_hospital(seed % 7, n=300)
    tasks = TASKS[:5]
    equal = {task.name: good[task.name] for task in tasks}
    equal["b0"] = add_noise(good["b0"], seed, noise)
    config = CONFIG.model_copy(update={"strict": strict})
    candidate = Candidate.score(cohort, tasks, equal, Resamples(cohort, 3, 500, 0), config)
    champion = gate.ReferenceModel("1", equal)
    assert check_not_worse_than_champion(candidate, champion)[1].passed
    assert check_not_worse_than_anchor(candidate, champion, None).passed
    assert check_not_worse_than_arm(candidate, "single_task", equal).passed


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
        tasks = [(str(i), "AUROC", 0.5 + value, 0.5) for i, value in enumerate(values - loss)]
        pairs = PairedScores(tasks, draws - loss)
        return compare_with("a", config, pairs, "version 1", must_be_shown=True)[0].passed

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
    transformed = simultaneous_bounds(values * scale + shift, draws * scale + shift)
    np.testing.assert_allclose(transformed[0], low * scale + shift, rtol=1e-6, atol=1e-6)
    fewer = simultaneous_bounds(values[:1], draws[:, :1])
    assert fewer[0][0] >= low[0] - 1e-12
    assert fewer[1][0] <= high[0] + 1e-12


def test_bounds_hold_for_all_values_at_once_as_often_as_stated():
    rng = np.random.default_rng(0)
    n_held = 0
    for _ in range(200):
        sample = rng.normal(size=(80, 10))
        drawn = rng.multinomial(80, np.full(80, 1 / 80), size=400) / 80
        low, _ = simultaneous_bounds(sample.mean(0), drawn @ sample, 0.1)
        n_held += bool((low <= 0).all())
    assert 0.84 <= n_held / 200 <= 0.96
