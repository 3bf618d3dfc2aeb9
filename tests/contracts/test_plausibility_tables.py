"""The plausibility checks of a table: what they say, stop and accept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from contract_tables import Hospital, events, frame, hours, samples

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.context import ValidationContext
from m3h_pipeline.contracts.plausibility.examine import PlausibilityInput, examine_table
from m3h_pipeline.contracts.plausibility.findings import Finding
from m3h_pipeline.contracts.validation import list_checks, validate

Values = np.ndarray


@pytest.fixture
def check(tmp_path: Path):
    """The checks of a table of these rows, by name, and the findings."""

    def run(
        table: str, rows: list[dict[str, Any]], **more: Any
    ) -> tuple[dict[str, CheckResult], list[Finding]]:
        file = tmp_path / f"{table}.parquet"
        schema = frame(table, []).schema
        own_columns = {}
        for name in rows[0].keys() - schema.keys():
            own_columns[name] = pl.Series([row.pop(name) for row in rows])
        frame(table, rows).with_columns(**own_columns).write_parquet(file)
        examined = examine_table(PlausibilityInput(table=table, ingested=file, valid=file, **more))
        return {result.name: result for result in examined.checks}, examined.findings

    return run


def many_events(code: str, values: Values, unit: str = "") -> list[dict[str, Any]]:
    """These values of a code, spread over the stays and minutes."""
    return [
        events()[0]
        | {
            "stay_id": f"s{i % 20}",
            "code": code,
            "value": float(value),
            "unit": unit,
            "time": hours(1 + i // 20 / 60),
            "available_time": hours(2 + i // 20 / 60),
        }
        for i, value in enumerate(values)
    ]


OWN = [{"code": "lactate", "unit": None, "low": None, "high": None}]


def test_a_second_unit_stops_the_run_and_names_the_line_that_accepts_it(check) -> None:
    rows = many_events("lactate", np.linspace(1, 5, 300), "mmol/L")
    rows += many_events("lactate", np.linspace(9, 45, 30) + 0.01, "mg/dL")
    checks, findings = check("events", rows, signals=OWN)
    result = checks["units"]
    assert (result.passed, result.severity) == (False, "error")
    assert (
        "lactate: 30 of 330 values (9.09%) are in another unit than mmol/L (mg/dL)"
        in result.description
    )
    assert (
        'add "events units lactate" to accepted under [validation] in m3h.toml'
        in result.description
    )
    assert (findings[0].subject, findings[0].stops, findings[0].rows) == ("lactate", True, 30)
    checks, findings = check("events", rows, signals=OWN, accepted=["events units lactate"])
    assert checks["units"].passed
    assert checks["units"].description.startswith("Accepted in m3h.toml")
    assert findings == []


def test_a_second_unit_of_a_signal_that_nobody_listed_warns(check) -> None:
    rows = many_events("lactate", np.linspace(1, 5, 300), "mmol/L")
    rows += many_events("lactate", np.linspace(9, 45, 30) + 0.01, "mg/dL")
    rows += many_events("sbp", np.linspace(90, 130, 300), "mmHg")
    sbp = {"code": "sbp", "unit": None, "low": None, "high": None}
    own = [entry | {"covered": True} for entry in [*OWN, sbp]]
    checks, findings = check("events", rows, signals=own)
    assert (checks["units"].passed, checks["units"].severity) == (False, "warning")
    assert [finding.stops for finding in findings] == [False]
    assert checks["code_names"].passed


def test_spellings_of_one_unit_are_one_unit(check) -> None:
    rows = many_events("lactate", np.linspace(1, 5, 300), "mmol/L")
    rows += many_events("lactate", np.linspace(1, 5, 30) + 0.01, "MMOL / l") + many_events(
        "lactate", [2.2] * 1, ""
    )
    assert check("events", rows, signals=OWN)[0]["units"].passed


def test_a_rare_unit_warns_and_is_not_counted_out(check) -> None:
    rows = many_events("lactate", np.linspace(1, 5, 300), "mmol/L")
    rows += many_events("lactate", np.linspace(9, 45, 4) + 0.01, "mg/dL")
    checks, findings = check("events", rows, signals=OWN)
    assert (checks["units"].passed, checks["units"].severity) == (False, "warning")
    assert "fewer than 10 of 304 values" in checks["units"].description
    assert findings[0].to_dict()["rows"] is None


def test_a_unit_that_is_in_quarantine_stops_the_run_too(check) -> None:
    rows = many_events("sodium", np.linspace(130, 150, 300), "mEq/L")
    rows += many_events("sodium", np.linspace(300, 340, 12), "mg/dL")
    result = check("events", rows)[0]["units"]
    assert (result.passed, result.severity) == (False, "error")


def test_a_code_like_a_known_signal_is_asked_about(check) -> None:
    draw = np.random.default_rng(0)
    rows = many_events("sbp", draw.normal(120, 15, 300)) + many_events(
        "lactate", draw.normal(2, 0.2, 300)
    )
    own = [*OWN, {"code": "sbp", "unit": None, "low": None, "high": None}]
    checks, _ = check("events", rows, signals=own)
    assert "sbp: did you mean nibp_systolic?" in checks["code_names"].description
    assert checks["code_names"].severity == "warning"
    assert "lactate:" not in checks["code_names"].description
    # Who names its unit and range means it.
    own[1] |= {"unit": "mmHg", "low": 20, "high": 300}
    for row in rows[:300]:
        row["unit"] = "mmHg"
    assert check("events", rows, signals=own)[0]["code_names"].passed


def test_what_is_known_when_it_is_taken_is_said(check) -> None:
    rows = many_events("lactate", np.linspace(1, 5, 300))
    assert check("events", rows, signals=OWN)[0]["availability"].passed
    for row in rows:
        row["available_time"] = row["time"]
    checks, _ = check("events", rows, signals=OWN, unread=["charttime", "nurse"])
    words = checks["availability"].description
    assert "in all 300 rows (charttime is in the file, and not read)" in words
    assert "counts as known at the moment it was taken" in words
    # Vital signs are known at once; a laboratory value is not.
    mixed = many_events("heart_rate", np.linspace(60, 90, 300), "bpm")
    mixed += [
        row | {"code": "sodium", "unit": "mEq/L", "value": row["value"] + 135} for row in rows
    ]
    assert "sodium" in check("events", mixed)[0]["availability"].description


def people(n: int = 200, **columns: Any) -> list[dict[str, Any]]:
    base = samples()[0]
    keys = ("sample_id", "stay_id", "subject_id")
    rows = [base | dict.fromkeys(keys, f"{i}") for i in range(n)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def test_two_spellings_of_a_category(check) -> None:
    sex = ["Female", "male", "Male", "female"] * 50
    checks, findings = check(
        "samples", people(sex=sex, ward=["A+", "A-"] * 100), declared=["sex", "ward"]
    )
    words = checks["categories"].description
    assert "sex: 2 of its 2 categories are spelt in more than one way" in words
    assert "ward" not in words
    assert not checks["categories"].passed
    assert "emale" not in words
    assert findings[0].subject == "sex"


def test_numbers_of_the_samples_are_looked_at_too(check) -> None:
    draw = np.random.default_rng(0)
    height = draw.normal(1.7, 0.1, 1000)
    height[::20] *= 100
    weight = draw.normal(80, 12, 1000)
    weight[::50] = -1
    rows = people(1000, height=height.tolist(), weight=weight.tolist())
    checks, _ = check("samples", rows, declared=["height", "weight"])
    assert checks["units"].severity == "error"
    assert "height: two groups of values a factor of 98.2 apart" in checks["units"].description
    assert "weight: -1 stands for 20 of 1,000 values" in checks["sentinels"].description


def test_labels_of_a_regression_are_looked_at_too(check) -> None:
    tasks = [TaskSpec("los0", "regression")]
    draw = np.random.default_rng(0)
    rows = []
    for i in range(400):
        value = -999.0 if i % 20 == 0 else float(draw.lognormal(1, 0.4))
        rows.append({"sample_id": f"s{i % 20}", "task": "los0", "value": value})
    checks, _ = check("labels", rows, tasks=tasks)
    assert "los0: -999 stands for 20 of 400 values (5.00%)" in checks["sentinels"].description


def test_too_little_is_not_judged(check) -> None:
    checks, findings = check("events", events())
    assert checks["outliers"].observed == {"note": "too few rows"}
    assert findings == []


def test_it_is_part_of_validation(tmp_path: Path) -> None:
    """A check that stops is an error among the table's checks; accepted for the snapshot as a
    whole, it passes.
    """
    Hospital(tmp_path)
    (tmp_path / "samples").mkdir()
    (tmp_path / "valid").mkdir()
    for name in ("samples", "quarantine"):
        source = "samples" if name == "samples" else "quarantine_samples"
        shutil.copy(tmp_path / f"{source}.parquet", tmp_path / "samples" / f"{name}.parquet")
    rows = many_events("lactate", np.linspace(1, 5, 300), "mmol/L")
    rows += many_events("lactate", np.linspace(9, 45, 30) + 0.01, "mg/dL")
    file = tmp_path / "events.parquet"
    frame("events", rows).write_parquet(file)
    verdicts = []
    accepting = ValidationContext("2026-01-01", accepted=frozenset({"units"}))
    for context in (ValidationContext("2026-01-01"), accepting):
        facts = validate(
            "events",
            file,
            tmp_path / "valid",
            samples=tmp_path / "samples" / "samples.parquet",
            signals=OWN,
            context=context,
        )
        (units_check,) = [one for one in facts["checks"] if one["name"] == "units"]
        verdicts.append((units_check["passed"], units_check["severity"], len(facts["findings"])))
        assert [one["name"] for one in facts["checks"]] == list_checks("events")
    assert verdicts == [(False, "error", 1), (True, "error", 0)]
