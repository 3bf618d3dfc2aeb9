"""What was kept is verified anew, and what was not is bounded."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from contract_tables import STAYS, TASKS, Hospital, frame, good, samples

from m3h_pipeline.contracts import verify as verifying
from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.plausibility.examine import describe_plausibility_checks
from m3h_pipeline.contracts.split import SplitResult
from m3h_pipeline.contracts.validation import describe_checks, list_checks, validate
from m3h_pipeline.contracts.verify import verify

pytestmark = pytest.mark.slow(15)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def _verify(hospital: Hospital, table: str, split: SplitResult) -> dict[str, CheckResult]:
    checks = verify(
        table, hospital.folder / f"{table}.parquet", split, samples=hospital.samples, tasks=TASKS
    )
    against_others = {"schema", "change_in_volume", "distribution", "freshness"}
    elsewhere = against_others | describe_plausibility_checks(table).keys()
    assert [check.name for check in checks] == [
        name for name in list_checks(table) if name not in elsewhere
    ]
    assert list_checks(table) == list(describe_checks(table))
    return {check.name: check for check in checks}


@pytest.mark.parametrize("table", TABLES)
def test_good_tables_pass_every_check(hospital: Hospital, table: str) -> None:
    split = hospital.split(table, good(table, hospital.folder))
    checks = _verify(hospital, table, split)
    assert all(check.passed for check in checks.values())
    assert checks["contract"].observed["rows verified"] == split.kept
    json.dumps([dataclasses.asdict(check) for check in checks.values()], allow_nan=False)


@pytest.mark.parametrize("table", TABLES)
def test_empty_tables_pass_where_a_hospital_may_lack_them(hospital: Hospital, table: str) -> None:
    split = hospital.split(table, [])
    checks = _verify(hospital, table, split)
    failed = {name for name, check in checks.items() if not check.passed}
    assert failed == ({"volume"} if table in ("samples", "labels") else set())
    assert checks["contract"].observed["note"] == "no rows"


def test_a_wrong_row_that_was_kept_is_found_and_no_value_is_shown(hospital: Hospital) -> None:
    split = hospital.split("events", good("events", hospital.folder))
    events = hospital.folder / "events.parquet"
    wrong = pl.when(pl.int_range(pl.len()) == 7).then(98765.0).otherwise("value").alias("value")
    pl.read_parquet(events).with_columns(wrong).write_parquet(events)
    check = _verify(hospital, "events", split)["contract"]
    assert (check.passed, check.severity, check.observed["broken"]) == (
        False,
        "error",
        "above_plausible_range",
    )
    assert "must not lie above the plausible range" in check.description
    assert "98765" not in str(check)


def test_too_large_a_quarantine_fails_and_names_the_most_frequent_reason(
    hospital: Hospital,
) -> None:
    rows = good("events", hospital.folder)
    split = hospital.split(
        "events", [row | {"unit": "furlong"} if i < 3 else row for i, row in enumerate(rows)]
    )
    check = _verify(hospital, "events", split)["quarantine"]
    assert not check.passed
    assert check.observed["rule unknown_unit"] == 3
    assert check.observed["share"] == round(3 / len(rows), 6)
    assert (
        "Fewer than 10 of the rows are in quarantine; the contract allows 5%" in check.description
    )
    assert "unknown_unit (<10 of 50 rows)" in check.description


def test_too_few_samples_and_an_empty_split_fail(hospital: Hospital) -> None:
    split = hospital.split("samples", [row for row in samples() if row["split"] != 2])
    checks = _verify(hospital, "samples", split)
    assert (
        checks["volume"].description
        == "There must be at least 20 samples, or nothing can be learned or tested."
    )
    assert not checks["volume"].passed
    assert checks["contract"].observed["broken"] == "empty_split"


def test_warnings_do_not_stop(hospital: Hospital) -> None:
    split = hospital.split("samples", [row | {"age": None} for row in samples()])
    checks = _verify(hospital, "samples", split)
    assert (checks["warnings"].passed, checks["warnings"].severity) == (False, "warning")
    assert checks["warnings"].observed["broken"] == "age_often_missing"
    assert all(check.passed for name, check in checks.items() if name != "warnings")


def test_beyond_the_contracts_size_every_kth_row_is_verified(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = hospital.split("events", good("events", hospital.folder))
    small = dataclasses.replace(load_contract("events"), verified_rows=20)
    monkeypatch.setattr(verifying, "load_contract", lambda table: small)
    check = verify("events", hospital.folder / "events.parquet", split, samples=hospital.samples)[0]
    assert check.observed["rows"] == split.kept == 2 * STAYS + 2
    assert check.observed["rows verified"] == 17  # every third of 50


def test_validate_writes_both_parts_and_returns_json(tmp_path: Path) -> None:
    facts = {}
    for table in TABLES:
        to = tmp_path / "valid" / table
        ingested = tmp_path / f"{table}.parquet"
        to.mkdir(parents=True)
        frame(table, good(table, tmp_path)).write_parquet(ingested)
        of = None if table == "samples" else tmp_path / "valid" / "samples" / "samples.parquet"
        facts[table] = validate(
            table, ingested, to, samples=of, tasks=[task.to_dict() for task in TASKS]
        )
        assert sorted(file.name for file in to.iterdir()) == sorted(
            [f"{table}.parquet", "quarantine.csv", "quarantine.parquet"]
        )
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["labels"]["kept"] == 3 * STAYS
    assert all(CheckResult(**check).passed for table in facts.values() for check in table["checks"])


def test_names_of_checks_come_without_great_expectations() -> None:
    code = (
        "import sys\n"
        "from m3h_pipeline.contracts.model import TABLES\n"
        "from m3h_pipeline.contracts.validation import describe_checks\n"
        "for table in TABLES: describe_checks(table)\n"
        "assert not {'great_expectations', 'pandas', 'torch', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
