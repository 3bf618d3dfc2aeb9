"""Good rows are kept, wrong ones go to quarantine with their reason, and none is lost."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from contract_tables import STAYS, WRONG, Hospital, frame, good, hours, samples, wrong_row

from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.errors import InputError


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


@pytest.mark.parametrize("table", TABLES)
def test_good_rows_are_kept_as_they_are(hospital: Hospital, table: str) -> None:
    rows = frame(table, good(table, hospital.folder))
    split = hospital.split(table, rows)
    assert (split.kept, split.quarantined_by_rule, split.share) == (rows.height, {}, 0.0)
    assert hospital.valid(table).equals(rows.select(list(load_contract(table).columns)))
    assert hospital.quarantine(table).height == 0


@pytest.mark.parametrize("table", TABLES)
def test_each_kind_of_wrong_row_gets_its_reason_and_the_good_rows_get_through(
    hospital: Hospital, table: str
) -> None:
    rows = good(table, hospital.folder)
    kinds = [(change, rule) for where, change, rule in WRONG if where == table]
    mixed = rows + [
        wrong_row(table, change, hospital.folder) | {"source_file": "wrong.csv"}
        for change, _ in kinds
    ]
    split = hospital.split(table, mixed)

    assert split.quarantined_by_rule == Counter(rule for _, rule in kinds)
    assert split.kept + split.quarantined == len(mixed)
    assert split.by_file[f"{table}.csv"] == {"kept": len(rows)}
    assert split.by_file["wrong.csv"] == {"kept": 0, **Counter(rule for _, rule in kinds)}
    assert hospital.valid(table).height == len(rows)

    wrong_rows = hospital.quarantine(table)
    assert wrong_rows["rule"].to_list() == [rule for _, rule in kinds]  # in the order of the source
    assert wrong_rows["source_row"].to_list() == list(range(len(rows) + 1, len(mixed) + 1))
    assert all(reason.endswith(".") or "not a" in reason for reason in wrong_rows["reason"])
    described = {rule.name: rule.description for rule in load_contract(table).rules}
    assert all(
        described.get(rule, reason) == reason
        for rule, reason in wrong_rows.select("rule", "reason").iter_rows()
    )


def test_quarantine_holds_the_whole_row_and_only_its_owner_reads_it(hospital: Hospital) -> None:
    hospital.split(
        "events", [wrong_row("events", {"value": 9999.0, "parse_errors": None}, hospital.folder)]
    )
    row = json.loads(hospital.quarantine("events")["row"].item())
    assert list(row) == list(load_contract("events").columns)
    assert (row["value"], row["time"], row["code"]) == (
        "9999.0",
        "2150-03-01 10:00:00.000000",
        "heart_rate",
    )
    mode = stat.S_IMODE((hospital.folder / "quarantine_events.parquet").stat().st_mode)
    assert mode == 0o600


def test_unreadable_fields_are_named(hospital: Hospital) -> None:
    hospital.split(
        "events",
        [
            wrong_row(
                "events", {"parse_errors": "time: not a date; value: not a number"}, hospital.folder
            )
        ],
    )
    reason = "These fields could not be read: time: not a date; value: not a number"
    assert hospital.quarantine("events")["reason"].to_list() == [reason]


def test_the_first_broken_rule_names_the_reason(hospital: Hospital) -> None:
    change = {"value": -5.0, "time": hours(500), "unit": "furlong"}
    hospital.split("events", [wrong_row("events", change, hospital.folder)])
    assert hospital.quarantine("events")["rule"].to_list() == ["unknown_unit"]


def test_a_wrong_row_does_not_take_the_place_of_a_good_one_with_its_key(hospital: Hospital) -> None:
    rows = good("notes", hospital.folder)
    split = hospital.split("notes", [rows[0] | {"text": ""}, *rows, rows[0] | {"kind": "nursing"}])
    assert split.quarantined_by_rule == {"empty_text": 1, "duplicate_key": 1}
    assert hospital.valid("notes")["kind"].unique().to_list() == ["radiology"]


def test_rows_of_a_quarantined_sample_go_with_it_and_are_not_held_against_the_table(
    tmp_path: Path,
) -> None:
    hospital = Hospital(tmp_path)
    hospital.split(
        "samples", [row | ({"age": 200.0} if row["stay_id"] == "s0" else {}) for row in samples()]
    )
    split = hospital.split("events", good("events", tmp_path))
    # Two measurements, one from the emergency room, one procedure.
    assert split.quarantined_by_rule == {"sample_quarantined": 4}
    assert split.share == 0.0
    assert hospital.split("labels", good("labels", tmp_path)).quarantined_by_rule == {
        "sample_quarantined": 3
    }


def test_a_second_copy_of_a_sample_in_quarantine_does_not_take_its_rows_along(
    tmp_path: Path,
) -> None:
    hospital = Hospital(tmp_path)
    assert hospital.split("samples", [*samples(), samples()[0]]).quarantined_by_rule == {
        "duplicate_key": 1
    }
    assert hospital.split("events", good("events", tmp_path)).quarantined == 0


def test_several_samples_of_a_stay(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    nightly = [row | {"sample_id": f"{row['sample_id']}-{n}"} for row in samples() for n in (1, 2)]
    assert hospital.split("samples", nightly).kept == 2 * STAYS
    events = good("events", tmp_path)
    assert hospital.split("events", events).kept == len(events)


def test_a_hospital_may_lack_optional_columns_and_declare_its_own(tmp_path: Path) -> None:
    rows = (
        frame("samples", samples())
        .drop("age", "race", "language")
        .with_columns(pl.lit(3.5).alias("frailty"))
    )
    hospital = Hospital(tmp_path)
    assert hospital.split("samples", rows).kept == STAYS
    kept = hospital.valid("samples")
    assert kept.columns[-1] == "frailty"
    assert not {"age", "source_file", "parse_errors"} & set(kept.columns)


def test_not_a_number_becomes_missing(hospital: Hospital) -> None:
    hospital.split("samples", [samples()[0] | {"age": float("nan")}])
    assert hospital.valid("samples")["age"].to_list() == [None]


def test_a_column_without_any_value_takes_the_contracts_type(hospital: Hospital) -> None:
    rows = frame("images", good("images", hospital.folder)).with_columns(pl.lit(None).alias("view"))
    assert hospital.split("images", rows).kept == STAYS
    assert hospital.valid("images").schema["view"] == pl.String


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop("unit", "source_row"), "lacks the column unit, source_row"),
        (
            lambda rows: rows.with_columns(pl.col("value").cast(pl.String)),
            "value is String, the contract says Float64",
        ),
        (
            lambda rows: rows.with_columns(pl.col("time").cast(pl.Datetime("ns"))),
            "time is Datetime",
        ),
    ],
)
def test_a_table_of_another_shape_is_refused(hospital: Hospital, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hospital.split("events", change(frame("events", good("events", hospital.folder))))


def test_empty_tables(hospital: Hospital) -> None:
    for table in TABLES:
        split = hospital.split(table, [])
        assert (split.kept, split.quarantined, split.share, split.by_file) == (0, 0, 0.0, {})


def test_the_same_rows_give_the_same_bytes(hospital: Hospital) -> None:
    rows = good("events", hospital.folder)
    rows += [
        wrong_row("events", change, hospital.folder)
        for table, change, _ in WRONG
        if table == "events"
    ]
    files = [hospital.folder / "events.parquet", hospital.folder / "quarantine_events.parquet"]
    first = (hospital.split("events", rows), *(file.read_bytes() for file in files))
    assert first == (hospital.split("events", rows), *(file.read_bytes() for file in files))
