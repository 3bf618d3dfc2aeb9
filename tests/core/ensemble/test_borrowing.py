"""Tasks with few labels borrow from tasks with many, and only where it helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, make_cohort, with_labelled

from m3h_core import Cohort, FittedModel, TaskSpec, fit, fit_many
from m3h_core.data.cohort import TRAIN
from m3h_core.metrics import primary_metric

RARE = TaskSpec("rare", "regression")
COMMON = TaskSpec("common", "regression")


def _cohort(related: bool, n: int = 1200, seed: int = 0) -> Cohort:
    """Sixty inputs; "common" is a sum of all of them, "rare" (40 training labels) the same or
    something else.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 60)).astype(np.float32)
    directions = rng.normal(size=(60, 2)) / np.sqrt(60)
    common, other = (x @ directions).T
    labels = {"common": common, "rare": (common if related else other) + 0.3 * rng.normal(size=n)}
    split = rng.choice(4, n, p=[0.5, 0.2, 0.0, 0.3])
    few = (np.cumsum(split == TRAIN) <= 40) | (split != TRAIN)
    return Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=split,
        embeddings={"tabular": x},
        present={"tabular": np.ones(n, dtype=bool)},
        labels=labels,
        labelled={"common": np.ones(n, dtype=bool), "rare": few},
    )


def _own(model: FittedModel) -> bool:
    return torch.equal(model.model.loans.outputs, torch.eye(model.model.layout.n_outputs))


def test_a_rare_task_learns_from_a_common_one():
    cohort = _cohort(related=True)
    joint, alone, without = (
        primary_metric(cohort, RARE, fit(cohort, tasks, config).predict(cohort)["rare"])
        for tasks, config in (
            ([RARE, COMMON], SMALL),
            ([RARE], SMALL),
            ([RARE, COMMON], replace(SMALL, borrowing=False)),
        )
    )
    assert joint > 0.7
    assert joint > alone + 0.2
    assert joint > without + 0.1


def test_nothing_is_borrowed_where_it_does_not_help():
    cohort = _cohort(related=False)
    joint = fit(cohort, [RARE, COMMON], SMALL)
    alone = fit(cohort, [RARE, COMMON], replace(SMALL, borrowing=False))
    a, b = (primary_metric(cohort, RARE, model.predict(cohort)["rare"]) for model in (joint, alone))
    assert a > b - 0.03


@pytest.mark.parametrize(
    ("case", "tasks"),
    [
        ("enough labels", SUPERVISED),
        ("alone", [RARE]),
        ("no validation label", [RARE, COMMON]),
    ],
)
def test_who_does_not_borrow(case, tasks):
    cohort = make_cohort(300) if case == "enough labels" else _cohort(related=True)
    if case == "no validation label":
        cohort = with_labelled(cohort, "rare", cohort.split != 1)
    assert _own(fit(cohort, tasks, SMALL))


def test_it_is_kept_by_save_and_load_and_the_same_in_a_bank(tmp_path):
    cohort = _cohort(related=True)
    both = [RARE, COMMON]
    model = fit(cohort, both, SMALL)
    assert not _own(model)
    model.save(tmp_path)
    banked, again = (
        fit_many(cohort, [([COMMON], SMALL), (both, SMALL)], resume=tmp_path / "bank")[1]
        for _ in range(2)
    )
    for name, values in model.predict(cohort).items():
        np.testing.assert_array_equal(FittedModel.load(tmp_path).predict(cohort)[name], values)
        np.testing.assert_allclose(banked.predict(cohort)[name], values, atol=1e-4)
        np.testing.assert_array_equal(again.predict(cohort)[name], banked.predict(cohort)[name])
