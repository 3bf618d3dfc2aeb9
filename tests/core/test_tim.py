"""Task interaction on planted structure, resumed, and under a budget."""

import json

import numpy as np
import pytest
from synthetic import SMALL, SUPERVISED, make_cohort

from m3h_core import Cohort, FitConfig, TaskSpec, fit_many, task_interaction


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(300)


TASKS = SUPERVISED[:3]
QUICK = FitConfig(hidden=(12,), width=4, members=1, epochs=4)


def test_matrix_holds_the_changes(cohort, tmp_path):
    seen = []
    found = task_interaction(
        cohort, TASKS, config=QUICK, seeds=(0, 1), n_bootstrap=40, resume=tmp_path,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (14, 14)
    assert found.tasks == ("death", "shock", "stay")
    assert (np.diag(found.matrix_TT) == 0).all()
    assert (found.source_TT == "retrained").all()
    off = ~np.eye(3, dtype=bool)
    assert (found.low_TT[off] <= found.high_TT[off]).all()
    assert np.isfinite(found.joint_T).all()
    again = task_interaction(cohort, TASKS, config=QUICK, seeds=(0, 1), n_bootstrap=40, resume=tmp_path)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    single = fit_many(cohort, [([task], QUICK) for task in TASKS])
    trained = []
    reused = task_interaction(
        cohort, TASKS, config=QUICK, seeds=(0,), n_bootstrap=40, single_models=single,
        on_progress=lambda done, total: trained.append(done),
    )  # fmt: skip
    assert trained[-1] == 4
    np.testing.assert_allclose(
        reused.matrix_TT, task_interaction(cohort, TASKS, config=QUICK, seeds=(0,)).matrix_TT, atol=1e-6
    )


def test_a_budget_leaves_estimated_cells_that_say_so(cohort):
    found = task_interaction(cohort, SUPERVISED, config=QUICK, seeds=(0,), max_models=8, n_bootstrap=40)
    assert (found.source_TT == "estimated").sum() == 6
    assert np.isfinite(found.matrix_TT).all()
    estimated = found.source_TT == "estimated"
    assert (found.low_TT[estimated] < found.matrix_TT[estimated]).all()
    with pytest.raises(ValueError, match="max_models is 2"):
        task_interaction(cohort, SUPERVISED, config=QUICK, seeds=(0,), max_models=2)


def test_a_task_without_test_labels_has_no_number(cohort):
    from dataclasses import replace

    bare = replace(cohort, labelled={**cohort.labelled, "shock": cohort.labelled["shock"] & (cohort.split != 3)})
    record = task_interaction(bare, TASKS, config=QUICK, seeds=(0,), n_bootstrap=20).to_dict()
    assert record["matrix"][1][0] is None
    assert record["single"][1] is None
    assert record["matrix"][0][1] is not None


def test_a_neighbour_with_many_labels_helps_a_task_with_few():
    """Two tasks of one hidden cause: the one with 40 labels gains from the one with all, which gains nothing."""
    rng = np.random.default_rng(0)
    n, width = 1400, 60
    x = rng.normal(size=(n, width)).astype(np.float32)
    cause = x @ rng.normal(size=width) / np.sqrt(width)
    split = np.repeat([0, 1, 3], [500, 200, 700])
    labels = {name: (cause + 0.3 * rng.logistic(size=n) > 0).astype(float) for name in ("rare", "common")}
    labels["other"] = (x[:, 0] * x[:, 1] > 0).astype(float)
    labelled = {name: np.ones(n, bool) for name in labels}
    labelled["rare"] = (np.arange(n) < 40) | (split == 3) | ((split == 1) & (np.arange(n) % 10 == 0))
    cohort = Cohort([str(i) for i in range(n)], split, {"x": x}, {"x": np.ones(n, bool)}, labels, labelled)
    tasks = [TaskSpec(name, "binary") for name in labels]
    config = FitConfig(hidden=(32,), width=8, members=1, epochs=30, linear_path=False)
    found = task_interaction(cohort, tasks, config=config, seeds=(0, 1), n_bootstrap=100)
    assert found.matrix_TT[0, 1] > 0.1
    assert found.low_TT[0, 1] > 0
    assert found.matrix_TT[0, 1] > found.matrix_TT[0, 2]
    assert abs(found.matrix_TT[1, 0]) < 0.03


def test_unknown_method_is_refused(cohort):
    with pytest.raises(ValueError, match="'magic' is not one of pairwise"):
        task_interaction(cohort, TASKS, method="magic", config=SMALL)
