"""What stands behind a task's number: found where it was planted, hidden where a group is small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from m3h_core import Cohort, EnsembleModel, FitConfig, TaskSpec, cross_fit, with_folds
from m3h_core.data.cohort import TEST
from m3h_core.training.cross_fit import cross_fit_trees
from m3h_pipeline.evaluation.curves import find_operating_points
from m3h_pipeline.evaluation.detail import describe_detail
from m3h_pipeline.evaluation.modalities import predict_side_by_side
from m3h_pipeline.jobs import train

TASKS = [
    TaskSpec("death", "binary"),
    TaskSpec("shock", "binary"),
    TaskSpec("rare", "binary"),
    TaskSpec("stay", "regression", unit="days"),
    TaskSpec("phenotype", "clustering", classes=2),
]


@pytest.fixture(scope="module", params=[0, 3], ids=["test split", "cross-fitted"])
def cohort(request) -> Cohort:
    """Labels that follow the series alone; they are noise for one group, and a third group has
    seven patients.
    """
    rng = np.random.default_rng(0)
    n = 1200
    kind = rng.integers(0, 2, n)
    series = rng.normal(size=(n, 6)) + 3 * kind[:, None]
    table = rng.normal(size=(n, 3))
    split = rng.choice(4, n, p=[0.4, 0.1, 0.1, 0.4])
    group = np.where(rng.random(n) < 0.5, "seen", "unseen").astype(object)
    group[np.flatnonzero(split == TEST)[:7]] = "few"
    signal = np.where(group == "unseen", 0, 3 * (series[:, 0] - 1.5))
    labels = {
        "death": (signal + rng.logistic(size=n) > 0).astype(float),
        "shock": (signal + rng.logistic(size=n) > 1).astype(float),
        "rare": np.isin(np.arange(n), np.flatnonzero(split == TEST)[:5]).astype(float),
        "stay": signal + rng.normal(size=n),
    }
    cohort = Cohort(
        [str(i) for i in range(n)],
        split,
        {"timeseries": series, "tabular": table},
        dict.fromkeys(("timeseries", "tabular"), np.ones(n, bool)),
        labels,
        dict.fromkeys(labels, np.ones(n, bool)),
        groups={"ward": group.tolist()},
        series=np.tile(series, 3),
    )
    return with_folds(cohort, request.param)


@pytest.fixture(scope="module")
def detail(cohort, tmp_path_factory):
    networks = cross_fit(cohort, TASKS, FitConfig(hidden=(32,), members=1, epochs=15))
    trees = cross_fit_trees(cohort, TASKS, rounds=20, workers=1)
    model = EnsembleModel.combine(networks, trees, cohort)
    predictions = model.predict_unseen(cohort)
    return describe_detail(
        cohort,
        TASKS,
        predictions,
        predictions,
        model,
        retrained(cohort, tmp_path_factory.mktemp("arm")),
    )


def retrained(cohort: Cohort, to: Path) -> dict[str, np.ndarray]:
    """As the job does it, killed after its first model."""
    training = {"seed": 0, "epochs": 6, "tree_rounds": 5}
    config = {"training": training, "model": {}, "series_steps": 3}
    lines: list[str] = []
    tasks = [TASKS[0], TASKS[1]]

    def killed(line: str) -> None:
        if "1 of 2" in line and not lines:
            lines.append(line)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.modalities(cohort, tasks, config, to, killed)
    (first,) = (to / ".subsets").glob("*.safetensors")
    kept = first.stat().st_mtime_ns
    seen = []
    train.modalities(cohort, tasks, config, to, lambda line: seen.append(first.stat().st_mtime_ns))
    assert set(seen) == {kept}
    return load_file(to / "predictions.safetensors")


def test_the_group_for_which_it_does_not_work_is_seen(detail):
    groups = {record["group"]: record for record in detail["subgroups"]}
    assert groups["unseen"]["difference_high"] < 0
    assert groups["unseen"]["low"] < 0.5 < groups["unseen"]["high"]
    assert {one["task"] for one in groups["unseen"]["tasks"]} == {"death", "shock"}


def test_a_small_group_is_not_described(detail):
    few = next(record for record in detail["subgroups"] if record["group"] == "few")
    assert few == {"attribute": "ward", "group": "few", "n": None, "tasks": []}


def test_subsets_are_predicted_in_their_order_each_by_one_thread_of_torch(cohort):
    """And torch has its threads again for what comes after."""
    n_threads = torch.get_num_threads()
    cohorts = [cohort.take(np.arange(n)) for n in (9, 5, 7)]

    class Counts:
        def predict_unseen(self, part):
            return {"rows": len(part), "threads": torch.get_num_threads()}

    class Broken:
        def predict_unseen(self, part):
            raise ValueError("another width")

    torch.set_num_threads(2)
    try:
        predictions = predict_side_by_side(Counts(), cohorts)
        assert predictions == [{"rows": n, "threads": 1} for n in (9, 5, 7)]
        with pytest.raises(ValueError, match="another width"):
            predict_side_by_side(Broken(), cohorts)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


def test_what_a_modality_adds(detail):
    assert [row["modalities"] for row in detail["modalities"]["subsets"]] == [
        ["timeseries", "tabular"],
        ["timeseries"],
        ["tabular"],
    ]
    adds = detail["modalities"]["adds"]
    assert adds["timeseries"]["difference_low"] > 0.1
    assert abs(adds["tabular"]["difference"]) < 0.05
    stay = next(row for row in detail["modalities"]["by_task"] if row["task"] == "stay")
    assert stay["adds"]["timeseries"]["difference_low"] > 0.1


def test_what_a_model_does_that_learned_from_a_modality_alone(detail):
    anew = {
        "+".join(row["modalities"]): row["retrained"] for row in detail["modalities"]["subsets"]
    }
    assert anew["timeseries+tabular"] is None  # that is the model itself
    assert anew["timeseries"]["low"] > 0.6
    assert anew["tabular"]["low"] <= 0.5 <= anew["tabular"]["high"]


def test_tasks_that_are_not_claimed_have_no_curves(detail):
    assert set(detail["curves"]) == {"death", "shock", "stay"}
    assert "NaN" not in json.dumps(detail)


def test_phenotypes_say_what_sets_them_apart(detail):
    (phenotype,) = detail["phenotypes"]
    assert phenotype["found"], phenotype
    assert {one["task"] for cluster in phenotype["clusters"] for one in cluster["enriched"]} >= {
        "death",
        "stay",
    }


@settings(deadline=None, max_examples=50)
@given(st.integers(20, 200), st.integers(0, 2**32 - 1), st.booleans())
def test_each_threshold_flags_and_leaves_ten(n, seed, ties):
    rng = np.random.default_rng(seed)
    y_score = rng.random(n).round(1) if ties else rng.random(n)
    is_positive = rng.random(n) < 0.4
    is_positive[:2] = [True, False]
    points = find_operating_points(is_positive, y_score)
    for point in points:
        assert 10 <= (y_score >= point["threshold"]).sum() <= n - 10
    for name, sign in (("flagged", 1), ("sensitivity", 1), ("specificity", -1), ("threshold", -1)):
        assert (sign * np.diff([point[name] for point in points]) >= 0).all()
