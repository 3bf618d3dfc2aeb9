"""A label among the inputs is found by what it does, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from m3h_core import Cohort, TaskSpec
from m3h_pipeline.evaluation.revealing_inputs import (
    describe_revealing_inputs,
    find_revealing_inputs,
)

TASKS = [TaskSpec("death", "binary"), TaskSpec("place", "multiclass", ("home", "ward", "died"))]


def make_cohort(n: int = 900, n_inputs: int = 40, seed: int = 0) -> Cohort:
    """Inputs that know something of the tasks: AUROC .9 at best."""
    rng = np.random.default_rng(seed)
    death = (rng.random(n) < 0.15).astype(float)
    place = np.where(death == 1, 2, rng.integers(0, 2, n)).astype(float)
    x = rng.standard_normal((n, n_inputs)).astype(np.float32)
    x[:, 0] += 1.8 * death
    is_labelled = rng.random(n) < 0.9
    return Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=np.arange(n) % 4 // 3 * 3,
        embeddings={"tabular": x},
        present={"tabular": np.ones(n, bool)},
        labels={"death": death, "place": place},
        labelled={"death": is_labelled, "place": np.ones(n, bool)},
    )


def name_inputs(cohort: Cohort) -> dict[str, str]:
    return {f"tabular/{i}": f"input {i}" for i in range(cohort.embeddings["tabular"].shape[1])}


def test_inputs_that_only_know_something_pass():
    cohort = make_cohort()
    assert find_revealing_inputs(cohort, TASKS, name_inputs(cohort)) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_label_is_found(sign):
    cohort = make_cohort()
    rng = np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal(len(cohort))
    cohort.embeddings["tabular"][:, 7] = sign * (cohort.labels["death"] + noise)
    revealing = find_revealing_inputs(cohort, TASKS, name_inputs(cohort))
    assert {(one.task, one.name) for one in revealing} == {
        ("death", "input 7"),
        ("place", "input 7"),
    }
    passed, words = describe_revealing_inputs(revealing, [])
    assert not passed
    assert "death: input 7" in words
    accepted = [one.entry for one in revealing]
    assert accepted[0] == "cohort revealing_inputs death input 7"
    assert describe_revealing_inputs(revealing, accepted)[0]
    assert not describe_revealing_inputs(revealing, accepted[:1])[0]


def test_the_test_patients_are_not_looked_at():
    cohort = make_cohort()
    is_test = cohort.split == 3
    cohort.embeddings["tabular"][is_test, 7] = 9 * cohort.labels["death"][is_test]
    assert find_revealing_inputs(cohort, TASKS, name_inputs(cohort)) == []


def test_a_few_positives_decide_nothing():
    cohort = make_cohort()
    cohort.labels["death"][:] = 0
    cohort.labels["death"][:100:5] = 1
    cohort.embeddings["tabular"][:, 7] = cohort.labels["death"]
    revealing = find_revealing_inputs(cohort, TASKS[:1], name_inputs(cohort))
    assert revealing == []


def test_chance_finds_nothing_among_many_inputs():
    cohort = make_cohort(n=400, n_inputs=2000)
    assert find_revealing_inputs(cohort, TASKS, name_inputs(cohort)) == []


def test_without_names_there_is_nothing_to_tell():
    assert find_revealing_inputs(make_cohort(), TASKS, {}) == []
