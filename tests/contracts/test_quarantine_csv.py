"""The quarantine as CSV: safe to open in a spreadsheet, with the field that is wrong, for its owner
alone.
"""

from __future__ import annotations

import csv
import json
import re
import stat
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passage import Passage
from tables_folder import event, hospital, write

from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.quarantine_csv import get_csv_path, write_quarantine_csv
from m3h_pipeline.erasure.tables import drop_rows
from m3h_pipeline.state.permissions import create_private_file


def cells(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def quarantine(folder: Path, rows: list[dict[str, str]], rule: str = "unknown_stay") -> Path:
    file = folder / "quarantine.parquet"
    create_private_file(file)
    columns = {
        "row": [json.dumps(row) for row in rows],
        "rule": [rule] * len(rows),
        "reason": ["A reason."] * len(rows),
        "source_file": ["events.csv"] * len(rows),
        "source_row": list(range(1, len(rows) + 1)),
    }
    pl.DataFrame(columns).write_parquet(file)
    return file


# What a spreadsheet runs: what OWASP names, and the same behind blanks.
FORMULA = re.compile(r"\s*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
            st.sampled_from(
                [
                    "=1+1",
                    "+cmd|' /C calc'!A0",
                    "-2+3",
                    "@SUM(A1)",
                    "\t=1",
                    "\r=1",
                    " =1",
                    "\n=1",
                    "-5",
                ]
            ),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_cell_begins_a_formula_and_none_is_lost(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("quarantine")
    file = quarantine(folder, [{"stay_id": text, "kind": "lab"} for text in texts])
    shown = cells(write_quarantine_csv(file))
    assert len(shown) == len(texts)
    for row, text in zip(shown, texts, strict=True):
        assert all(NUMBER.fullmatch(cell) or not FORMULA.match(cell) for cell in row.values())
        assert row["row.stay_id"].removeprefix("'") == text.removeprefix("'")
        assert row["field"] == "stay_id"


def test_numbers_stay_numbers(tmp_path):
    shown = cells(
        write_quarantine_csv(
            quarantine(tmp_path, [{"value": "-5"}, {"value": "+1.5e3"}, {"value": "-5-1"}])
        )
    )
    assert [row["row.value"] for row in shown] == ["-5", "+1.5e3", "'-5-1"]


@pytest.fixture
def wrong(tmp_path) -> Passage:
    tables = hospital(24)
    tables["events"] += [
        event("s1", "2024-01-11 09:00:00", "heart_rate", "12,5", "bpm"),
        event("s1", "2024-01-11 10:00:00", "heart_rate", 900, "bpm"),
        event("s1", "31.01.2024", "heart_rate", "=1+1", "bpm"),
        event("nobody", "2024-01-11 11:00:00", "heart_rate", -5, "bpm"),
    ]
    tables["labels"].append({"sample_id": "s1", "task": "destination", "value": "the moon"})
    return Passage(open_source("tables", write(tmp_path / "h", tables)), tmp_path / "out")


def test_it_names_the_field_and_what_it_held(wrong):
    folder = wrong.to / "valid_events"
    by_rule = {}
    rows = {}
    for row in cells(folder / "quarantine.csv"):
        by_rule.setdefault(row["rule"], []).append(
            (row["field"], row["raw_value"], row["source_row"])
        )
        rows.setdefault(row["rule"], []).append(row["source_row"])
    assert by_rule["unreadable_field"] == [
        ("value", "12,5", rows["unreadable_field"][0]),
        ("time, value", "31.01.2024; =1+1", rows["unreadable_field"][1]),
    ]
    assert by_rule["above_plausible_range"][0][:2] == ("value", "900.0")
    assert by_rule["unknown_stay"][0][:2] == ("stay_id", "nobody")
    (label,) = cells(wrong.to / "valid_labels" / "quarantine.csv")
    assert (label["field"], label["raw_value"]) == ("value", "the moon")
    assert label["row.sample_id"] == "s1"


def test_only_its_owner_reads_it_and_it_has_the_rows_of_the_parquet_file(wrong):
    for table in ("samples", "events", "notes", "labels"):
        file = wrong.to / f"valid_{table}" / "quarantine.csv"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(cells(file)) == len(pl.read_parquet(file.with_suffix(".parquet")))


def test_who_is_erased_from_the_one_is_erased_from_the_other(wrong):
    file = wrong.to / "valid_events" / "quarantine.parquet"
    before = cells(get_csv_path(file))

    class Nobody:
        """Stands for who is forgotten: the stay that is named in one wrong row."""

        def match(self, table: pl.LazyFrame) -> pl.Expr:
            return pl.col("row").str.json_path_match("$.stay_id") == "nobody"

    drop_rows(file, Nobody())  # ty: ignore[invalid-argument-type]
    after = cells(get_csv_path(file))
    assert [row for row in before if row["row.stay_id"] != "nobody"] == after
    assert len(after) == len(before) - 1
    assert stat.S_IMODE(get_csv_path(file).stat().st_mode) == 0o600
