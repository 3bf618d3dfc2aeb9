"""What breaks a table as a whole: shape, size, distribution and age, each said in a data steward's
words.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from contract_tables import TASKS, Hospital, frame, good, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_pipeline.contracts import changes
from m3h_pipeline.contracts.changes import check_changes
from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.context import ValidationContext
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.validation import list_checks, validate

BEFORE = "2026-01-01"
NOW = "2026-01-02"
NOTES = load_contract("notes")
STAYS = 400
TIME = datetime(2026, 1, 1, 12)


def events(seed: int, stays: int = STAYS, **shift: float) -> pl.DataFrame:
    """Four heart rates a stay, and a sodium of four stays in five; ``shift``: added to a signal's
    values.
    """
    draw = np.random.default_rng(seed)
    parts = []
    for code, chance, mean in (("heart_rate", 1.0, 80.0), ("sodium", 0.8, 140.0)):
        who = np.flatnonzero(draw.random(stays) < chance).repeat(4)
        values = draw.normal(mean, mean / 10, len(who)).round() + shift.get(code, 0.0)
        parts.append(
            pl.DataFrame({"stay_id": [f"s{i}" for i in who], "code": code, "value": values})
        )
    rows = pl.concat(parts).with_columns(
        time=pl.lit(TIME), available_time=pl.lit(TIME), unit=pl.lit("x")
    )
    return rows.select(list(load_contract("events").columns))


def people(seed: int, n: int = STAYS, **columns: Any) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    rows = [samples()[0] | {"sample_id": str(i), "stay_id": str(i)} for i in range(n)]
    table = pl.DataFrame(rows, schema=dict(load_contract("samples").columns))
    drawn = {"age": draw.normal(60, 15, n), "sex": draw.choice(["F", "M"], n)} | columns
    return table.with_columns(pl.Series(name, values) for name, values in drawn.items())


@pytest.fixture
def judged(tmp_path: Path):
    """The checks of a table beside the one of the snapshot before."""

    def run(
        table: str, now: pl.DataFrame, before: pl.DataFrame | None, **given: Any
    ) -> dict[str, CheckResult]:
        now.write_parquet(tmp_path / "now.parquet")
        previous = None
        if before is not None:
            before.write_parquet(tmp_path / "before.parquet")
            previous = (BEFORE, tmp_path / "before.parquet")
        context = ValidationContext(NOW, previous, **given)
        checks = check_changes(load_contract(table), tmp_path / "now.parquet", context)
        return {check.name: check for check in checks}

    return run


def test_without_an_earlier_snapshot_all_pass_and_say_so(judged):
    checks = judged("events", events(0), None)
    assert all(check.passed for check in checks.values())
    for name in ("schema", "change_in_volume", "distribution"):
        assert checks[name].description == "There is no earlier snapshot to compare with."


@pytest.mark.parametrize("seed", range(1, 6))
def test_chance_alone_breaks_nothing(judged, seed):
    assert all(check.passed for check in judged("events", events(seed), events(0)).values())
    assert all(check.passed for check in judged("samples", people(seed), people(0)).values())
    # Of a small hospital, too.
    few = judged("events", events(seed, 35), events(0, 40))
    assert few["distribution"].observed["compared"] > 0
    assert all(check.passed for check in few.values())


def test_a_signal_that_has_vanished(judged):
    now = events(1).filter(pl.col("code") != "sodium")
    check = judged("events", now, events(0))["distribution"]
    assert (check.passed, check.severity) == (False, "error")
    assert check.description.startswith(f"Against the snapshot of {BEFORE}: sodium has vanished (8")
    assert f'"{NOW} events distribution"' in check.description


def test_a_covered_signal_near_its_bound_may_come_and_go(judged):
    """One that many had may not."""
    seldom = events(0).filter((pl.col("code") != "sodium") | (pl.col("stay_id").hash(0) % 10 == 0))
    without = events(1).filter(pl.col("code") != "sodium")
    covered = frozenset({"sodium"})
    assert not judged("events", without, seldom)["distribution"].passed
    assert judged("events", without, seldom, covered=covered)["distribution"].passed
    assert judged("events", seldom, without, covered=covered)["distribution"].passed
    check = judged("events", without, events(0), covered=covered)["distribution"]
    assert not check.passed
    assert "sodium: 0% have it, 8" in check.description


def test_a_signal_that_most_stays_lack_now(judged):
    now = events(1).filter((pl.col("code") != "sodium") | (pl.col("stay_id").hash(0) % 5 == 0))
    check = judged("events", now, events(0))["distribution"]
    assert not check.passed
    assert "sodium: 1" in check.description
    assert "have it, " in check.description


def test_values_in_another_unit(judged):
    check = judged("events", events(1, heart_rate=40.0), events(0))["distribution"]
    assert not check.passed
    assert "heart_rate: 0% of the values lie at or below the earlier median, 5" in check.description
    assert "sodium" not in check.description
    for value in ("120", "119", "121"):
        assert value not in check.description


def test_declared_columns_of_the_samples(judged):
    n = STAYS
    check = judged("samples", people(1, age=np.full(n, 3.0), sex=["D"] * n), people(0))[
        "distribution"
    ]
    assert not check.passed
    assert "age: 100% of the values" in check.description
    assert "sex: 100% of the rows would have to change their category" in check.description
    missing = judged("samples", people(1, age=[None] * (n - 3) + [1.0] * 3), people(0))[
        "distribution"
    ]
    assert "age is missing for all but fewer than 10, it was for 0%" in missing.description


def test_labels_whose_prevalence_jumps(judged):
    def labels(share: float) -> pl.DataFrame:
        ids = [f"s{i}" for i in range(STAYS)]
        values = [float(i < share * STAYS) for i in range(STAYS)]
        return pl.DataFrame({"sample_id": ids, "task": "death", "value": values})

    assert judged("labels", labels(0.12), labels(0.1))["distribution"].passed
    assert not judged("labels", labels(0.9), labels(0.1))["distribution"].passed


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (
            100,
            400,
            "75% fewer rows. There are 100 rows; the snapshot of 2026-01-01 had 400, the contract "
            "allows 0.5 to 2",
        ),
        (1000, 400, "150% more rows."),
        (0, 400, "There are <10 rows; the snapshot of 2026-01-01 had 400"),
        (300, 400, None),
        (3, 8, None),
    ],
)
def test_size_against_the_last_snapshot(judged, now, before, words):
    check = judged("samples", people(1, now), people(0, before))["change_in_volume"]
    assert check.passed == (words is None)
    assert (words or "") in check.description


@given(before=st.integers(0, 60), now=st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_size_follows_the_contracts_ratios(tmp_path_factory, before, now):
    folder = tmp_path_factory.mktemp("sizes")
    for name, rows in (("before", before), ("now", now)):
        pl.DataFrame({"a": [0] * rows}).write_parquet(folder / f"{name}.parquet")
    context = ValidationContext(NOW, (BEFORE, folder / "before.parquet"))
    check = changes._check_volume(NOTES, folder / "now.parquet", context)
    assert check.passed == ((before < 10 and now < 10) or before / 2 <= now <= before * 2)
    for rows in (before, now):
        assert rows >= 10 or not any(
            words in check.description for words in (f"are {rows} rows", f"had {rows},")
        )
        assert rows >= 10 or str(rows) not in map(str, check.observed.values())


def test_columns_against_the_last_snapshot(judged):
    old = people(0, frailty=np.arange(STAYS) * 1.0, ward=["A"] * STAYS)
    same = judged(
        "samples", people(1, frailty=np.arange(STAYS), ward=["A"] * STAYS, team=["x"] * STAYS), old
    )
    assert same["schema"].passed
    assert same["schema"].description.endswith("New: team.")
    other = judged("samples", people(1, frailty=["high"] * STAYS), old)["schema"]
    assert not other.passed
    assert (
        "the column ward is gone; the column frailty is text, it was a number" in other.description
    )


def test_freshness_of_live_sources_only(judged):
    late = events(0).with_columns(available_time=pl.lit(TIME - timedelta(days=9)))
    future = events(0).with_columns(available_time=pl.lit(TIME + timedelta(days=40)))
    for table, words in (
        (late, "10 days before the snapshot's date; the contract allows 3"),
        (future, "39 days after"),
    ):
        check = judged("events", table, None, is_live=True)["freshness"]
        assert not check.passed
        assert words in check.description
        assert judged("events", table, None)["freshness"].passed
    assert judged("events", events(0), None, is_live=True)["freshness"].passed


def test_a_breach_that_a_person_accepted_passes_and_says_so(judged):
    table = events(1, heart_rate=40.0)
    names = frozenset({"distribution"})
    check = judged("events", table, events(0), accepted=names)["distribution"]
    assert check.passed
    assert check.description.startswith("Accepted in m3h.toml. Against the snapshot")


def test_a_warning_in_the_contract_stays_one(tmp_path):
    contract = load_contract("events")
    bounds = {
        name: dataclasses.replace(bound, severity="warning")
        for name, bound in contract.bounds.items()
    }
    events(1, heart_rate=40.0).write_parquet(tmp_path / "now.parquet")
    events(0).write_parquet(tmp_path / "before.parquet")
    context = ValidationContext(NOW, (BEFORE, tmp_path / "before.parquet"))
    checks = check_changes(
        dataclasses.replace(contract, bounds=bounds), tmp_path / "now.parquet", context
    )
    assert {(c.name, c.severity) for c in checks if not c.passed} == {("distribution", "warning")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop("unit"), "The column unit is missing."),
        (
            lambda rows: rows.with_columns(pl.col("value").cast(pl.String)),
            "The column value is text (String), the contract says a number (Float64).",
        ),
        (
            lambda rows: rows.with_columns(pl.lit("ICU").alias("ward")),
            "The column ward is neither in the contract nor declared in columns.json.",
        ),
    ],
)
def test_a_table_of_another_shape_blocks_and_says_what_to_do(tmp_path, change, words):
    hospital = Hospital(tmp_path)
    change(frame("events", good("events", tmp_path))).write_parquet(tmp_path / "ingested.parquet")
    to = tmp_path / "valid"
    to.mkdir()
    facts = validate(
        "events", tmp_path / "ingested.parquet", to, samples=hospital.samples, tasks=TASKS
    )
    failed = [check for check in facts["checks"] if not check["passed"]]
    assert [(check["name"], check["severity"]) for check in failed] == [("schema", "error")]
    assert failed[0]["description"].startswith(words)
    assert "mend the extraction" in failed[0]["description"]
    assert [check["name"] for check in facts["checks"]] == list_checks("events")
    assert pl.read_parquet(to / "events.parquet").height == 0
    assert (to / "quarantine.parquet").stat().st_mode & 0o077 == 0


def test_a_declared_column_is_no_surprise(tmp_path):
    table = frame("samples", samples()).with_columns(pl.lit(3.5).alias("frailty"))
    table.write_parquet(tmp_path / "ingested.parquet")
    (tmp_path / "valid").mkdir()
    facts = validate(
        "samples", tmp_path / "ingested.parquet", tmp_path / "valid", declared=["frailty"]
    )
    assert all(check["passed"] for check in facts["checks"])
