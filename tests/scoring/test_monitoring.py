"""What counts as a change: of inputs, of what is missing, and of how good the champion is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_core import Cohort, TaskSpec
from m3h_pipeline.config import MonitoringConfig
from m3h_pipeline.scoring.monitoring.bins import count_in_bins, summarise
from m3h_pipeline.scoring.monitoring.comparisons import (
    compare_missing,
    compare_values,
    mark_changes,
)
from m3h_pipeline.scoring.monitoring.performance import judge_performance
from m3h_pipeline.scoring.monitoring.verdicts import write_verdicts
from m3h_pipeline.state.data_files import write_json

CONFIG = MonitoringConfig()
DEATH = TaskSpec("death", "binary")

NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6) | st.integers(0, 3), max_size=150)
NAMES = st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=150)


@settings(deadline=None)
@given(
    NUMBERS.map(lambda v: pl.Series(v, dtype=pl.Float64))
    | NAMES.map(lambda v: pl.Series(v, dtype=pl.String))
)
def test_a_reference_tells_of_no_few_patients(values):
    summary = summarise("x", "tabular", values)
    assert all(
        count == 0 or count >= 10 for count in (*summary["counts"], summary["n"], summary["known"])
    )
    assert all(count % 5 == 0 for count in (*summary["counts"], summary["n"], summary["known"]))
    present = values.drop_nulls()
    if summary["kind"] == "category":
        sizes = {category: int((present == category).sum()) for category in summary["categories"]}
        assert all(size >= 10 for size in sizes.values())
        assert not 0 < len(present) - sum(sizes.values()) < 10 or not sizes
        return
    inside = count_in_bins(summary, present)
    assert all(count >= 10 for count in inside) or not summary["edges"]
    assert all(edge == float(f"{edge:.3g}") for edge in summary["edges"])
    assert inside.sum() == len(present)


def _night(draw: np.random.Generator, features: int, n: int, **shift: Any) -> dict[str, pl.Series]:
    """Numbers and names by turns; ``shift``: feature -> added to its numbers, or "rare"."""
    night = {}
    for i in range(features):
        name = f"x{i}"
        is_rare = shift.get(name) == "rare"
        values = draw.normal(size=n) + (0 if is_rare else shift.get(name, 0))
        is_known = draw.random(n) < (0.3 if is_rare else 0.9)
        series = pl.Series(np.where(is_known, values, np.nan)).fill_nan(None)
        if i % 2 == 0:
            names = {0: "no", 1: "yes"}
            is_high = (series > 0.5).cast(pl.Int8)
            series = is_high.replace_strict(names, return_dtype=pl.String)
        night[name] = series
    return night


def _compared(
    then: dict[str, pl.Series],
    now: dict[str, pl.Series],
    whose: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> set[str]:
    """Which features have changed; ``whose``: whose samples those of then and of now are."""
    features = [
        (summarise(name, "tabular", values, whose[0]), now[name]) for name, values in then.items()
    ]
    values = mark_changes([compare_values(*pair, whose[1]) for pair in features], CONFIG)
    missing = mark_changes([compare_missing(*pair, whose[1]) for pair in features], CONFIG)
    return {record["name"] for record in [*values, *missing] if record["changed"]}


@pytest.mark.slow(3)
def test_nights_without_a_change_are_quiet():
    """Of 40 nights of 30 features and 60 new samples each, a few at most may raise a false
    alarm.
    """
    draw = np.random.default_rng(0)
    then = _night(draw, 30, 500)
    alarms = sum(bool(_compared(then, _night(draw, 30, 60))) for _ in range(40))
    assert alarms <= 4


def test_nights_of_patients_with_many_stays_are_as_quiet():
    """Forty patients of five stays that are alike: without saying so, most nights raise a false
    alarm.
    """
    draw = np.random.default_rng(3)
    stays = {5: np.repeat(np.arange(40), 5), 2: np.repeat(np.arange(200), 2)}
    then = {name: values[stays[2].tolist()] for name, values in _night(draw, 20, 200).items()}
    grouped = 0
    alone = 0
    for _ in range(20):
        now = {name: values[stays[5].tolist()] for name, values in _night(draw, 20, 40).items()}
        grouped += bool(_compared(then, now, (stays[2], stays[5])))
        alone += bool(_compared(then, now))
    assert grouped <= 2
    assert alone >= 10


def test_what_changes_is_named():
    draw = np.random.default_rng(1)
    then = _night(draw, 30, 500)
    for _ in range(5):
        assert {"x0", "x1", "x7"} <= _compared(
            then, _night(draw, 30, 200, x0=1.0, x1=1.0, x7="rare")
        )


def test_large_and_meaningless_is_no_change():
    """100,000 samples make any difference significant."""
    draw = np.random.default_rng(2)
    assert _compared(_night(draw, 4, 100_000), _night(draw, 4, 100_000, x1=0.05)) == set()


@pytest.fixture
def learned() -> Cohort:
    """Twenty samples, of which the first ten had a label when the champion learned."""
    return Cohort(
        sample_ids=[f"old{i}" for i in range(20)], split=np.zeros(20), embeddings={}, present={},
        labels={"death": np.zeros(20)}, labelled={"death": np.arange(20) < 10},
    )  # fmt: skip


def _perform(
    tmp_path: Path, learned: Cohort, right: float, tasks: list[TaskSpec] | None = None
) -> list[dict[str, Any]]:
    """Labels of all old and of 200 new samples; the new ones' scores are ``right`` that often, the
    first old never.
    """
    draw = np.random.default_rng(0)
    samples = [*learned.sample_ids, *(f"new{i}" for i in range(200))]
    label = draw.integers(0, 2, len(samples))
    says = np.where(draw.random(len(samples)) < right, label, 1 - label)
    says[:10] = 1 - label[:10]
    pl.DataFrame({"sample_id": samples, "task": "death", "value": label * 1.0}).write_parquet(
        tmp_path / "labels.parquet"
    )
    write_json(tmp_path / "tasks.json", [task.to_dict() for task in tasks or [DEATH]])
    scored = pl.DataFrame(
        {
            "sample_id": samples, "subject_id": samples, "task": "death", "class": None,
            "prediction": np.where(says == 1, 0.9, 0.1) + draw.normal(0, 0.01, 220),
            "coverage": 0.9,
            "set": [["yes"] if s else ["no"] for s in says], "low": None, "high": None,
        }
    )  # fmt: skip
    then = {"death": {"metric": "AUROC", "value": 0.9, "low": 0.87, "high": 0.93, "n": 300}}
    return judge_performance(scored, tmp_path, learned, [DEATH], then, CONFIG, bootstrap=200)


def test_performance_is_judged_on_labels_that_came_since(tmp_path, learned):
    (record,) = _perform(tmp_path, learned, right=0.95)
    assert record["n"] == 210  # not the ten that it may have learned
    assert not record["fell"]
    assert not record["uncovered"]
    assert record["coverage"] == pytest.approx(0.95, abs=0.04)


def test_a_fall_is_seen_in_score_and_coverage(tmp_path, learned):
    (record,) = _perform(tmp_path, learned, right=0.7)
    assert record["fell"]
    assert record["uncovered"]
    results = {
        "reason": None,
        "new": 200,
        "inputs": [],
        "missing": [],
        "scores": [],
        "performance": [record],
    }
    passed, words = write_verdicts(results)["performance"]
    assert not passed
    assert "Death 0.6" in words
    assert "stated 90%" in words


def test_another_task_of_the_same_name_is_not_compared(tmp_path, learned):
    other = TaskSpec("death", "binary", definition="died within a year")
    assert _perform(tmp_path, learned, right=0.7, tasks=[other]) == []
