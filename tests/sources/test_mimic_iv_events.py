"""Measurements and procedures of MIMIC-IV's layout: their stay, unit, and when they were known."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from canonical_tables import ENDED, count_reasons, extract_mimic, when
from mimic_folder import hospital, measurement, procedure, write

from m3h_pipeline.sources.tasks_file import load_signals


def events_of(tmp_path: Path, **rows: list[dict]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and lineage of the hospital with these rows as one of its event tables."""
    tables = {
        name: list(rows)
        for name, rows in hospital().items()
        if name.split("/")[1] in ("patients", "admissions")
    }
    tables["hosp/diagnoses_icd"] = hospital()["hosp/diagnoses_icd"]
    for name, content in rows.items():
        tables[
            {"labevents": "hosp", "chartevents": "icu", "procedureevents": "icu"}[name] + "/" + name
        ] = content
    result, _ = extract_mimic(write(tmp_path / "h", tables))
    return result["events"], result["lineage"]


def lab(hadm, time, subject=12, **others):
    return measurement(subject, hadm, time, 50931, 100, "mg/dL", **others)


def test_a_lab_without_hadm_id_is_placed_by_its_time(tmp_path):
    events, lineage = events_of(
        tmp_path,
        labevents=[
            lab(23, "2150-03-02 00:00:00"),
            lab(None, "2150-03-02 01:00:00"),
            lab("", "2150-03-05 00:00:01"),
            lab(None, "2150-03-04 12:00:00"),
            lab(None, "2150-04-04 12:00:00"),
            lab(None, "2150-02-01 09:00:00", subject=11),
            lab(22, "2150-02-01 09:00:00", subject=11),
        ],
    )
    assert events.select("stay_id", "source_row").rows() == [("23", 1), ("23", 2), ("24", 3)]
    assert count_reasons(lineage, "hosp/labevents") == {
        None: 3,
        "no hadm_id, and taken within more than one stay": 1,
        "no hadm_id, and taken outside any stay": 1,
        ENDED: 2,
    }


def test_when_a_lab_was_known(tmp_path):
    events, _ = events_of(
        tmp_path,
        labevents=[
            lab(23, "2150-03-02 00:00:00", stored="2150-03-02 05:00:00"),
            lab(23, "2150-03-02 01:00:00", stored="2150-03-02 00:30:00"),
            lab(23, "2150-03-02 02:00:00"),
        ],
    )
    assert events["available_time"].to_list() == [
        when("2150-03-02 05:00"), when("2150-03-02 01:00"), when("2150-03-02 02:00")
    ]  # fmt: skip


def test_when_a_procedure_was_known(tmp_path):
    start = "2150-03-01 10:00:00"
    events, _ = events_of(
        tmp_path,
        procedureevents=[
            # A point in time, charted two hours later.
            procedure(12, 23, start, "2150-03-01 10:01:00", 225400, stored="2150-03-01 12:00:00"),
            # A line that lay for two days, saved for the last time when it was removed: its start
            # was known before.
            procedure(12, 23, start, "2150-03-03 10:00:00", 224264, stored="2150-03-03 10:05:00"),
            # Dialysis, saved while it ran.
            procedure(12, 23, start, "2150-03-01 14:00:00", 225441, stored="2150-03-01 11:00:00"),
            procedure(12, 23, start, None, 224385),
        ],
    )
    available = dict(events.select("code", "available_time").iter_rows())
    assert available == {
        "bronchoscopy": when("2150-03-01 12:00"), "picc_line": when(start),
        "hemodialysis": when("2150-03-01 11:00"), "intubation": when(start),
    }  # fmt: skip
    assert events["value"].to_list() == [1.0] * 4
    assert set(events["unit"]) == {"count"}


def test_units_are_harmonised(tmp_path):
    rows = [
        ("220210", 20, "insp/min", 20.0, "breaths/min"),
        ("223900", 5, "UNK", 5.0, "score"),
        ("220045", 80, None, 80.0, "bpm"),
        ("50931", 10, "mmol/L", 180.16, "mg/dL"),
        ("50971", 4, " MMOL/L ", 4.0, "mEq/L"),
        ("51249", 33, "%", 33.0, "g/dL"),
        ("51009", 12, "µg/mL", 12.0, "ug/mL"),
        ("50912", 1, "furlong", 1.0, "furlong"),
    ]
    values = [
        measurement(12, 23, f"2150-03-02 {i:02}:00:00", item, v, unit)
        for i, (item, v, unit, *_) in enumerate(rows)
    ]
    vital = [row for row in values if row["itemid"].startswith("22")]
    events, _ = events_of(
        tmp_path, labevents=[row for row in values if row not in vital], chartevents=vital
    )
    events = events.sort("time")
    assert events["value"].to_list() == pytest.approx([value for *_, value, _ in rows])
    assert events["unit"].to_list() == [unit for *_, unit in rows]


def test_values_that_are_none_or_no_number(tmp_path):
    def row(minute, **others):
        return lab(23, f"2150-03-02 00:{minute:02}:00") | others

    events, lineage = events_of(
        tmp_path,
        labevents=[
            row(0, value=None, valuenum=None),
            row(1, value="___", valuenum=None),
            row(2, value="7.5", valuenum=None),
            row(3, value="HEMOLYZED", valuenum=None),
            row(4, value="5", valuenum="five"),
            row(5, value="5", valuenum="nan"),
            row(6, charttime="2150-02-30 00:00:00"),
            row(7, charttime="yesterday", hadm_id=None),
            row(8, storetime="infinity"),
        ],
    )
    events = events.sort("source_row")
    assert events.select("source_row", "value", "parse_errors").rows() == [
        (3, 7.5, None),
        (4, None, "value: not a number (raw value “HEMOLYZED”)"),
        (5, 5.0, "valuenum: not a number (raw value “five”)"),
        (6, 5.0, "valuenum: not a number (raw value “nan”)"),
        (7, 100.0, "charttime: not a date (raw value “2150-02-30 00:00:00”)"),
        (8, 100.0, "charttime: not a date (raw value “yesterday”)"),
        (9, 100.0, "storetime: not a date (raw value “infinity”)"),
    ]
    assert events["stay_id"].to_list() == ["23"] * 5 + [None, "23"]
    assert count_reasons(lineage, "hosp/labevents") == {None: 7, "no value": 2}


def test_wrong_keys_go_on_to_the_contract(tmp_path):
    events, _ = events_of(
        tmp_path,
        labevents=[lab(99, "2150-03-02 00:00:00"), lab(23, "2150-03-02 00:00:00", subject=11)],
    )
    assert events.sort("source_row").select("stay_id", "parse_errors").rows() == [
        ("99", None),
        ("23", "subject_id: not the patient of the stay"),
    ]


def test_ids_with_pandas_point_zero(tmp_path):
    events, _ = events_of(tmp_path, labevents=[lab("23.0", "2150-03-02 00:00:00")])
    assert events["stay_id"].to_list() == ["23"]


def test_every_listed_item_is_read(tmp_path):
    folder = {"vital": "chartevents", "lab": "labevents", "procedure": "procedureevents"}
    rows: dict[str, list] = {name: [] for name in folder.values()}
    for signal in load_signals():
        for item in signal.mimic_iv:
            row = measurement(12, 23, "2150-03-02 00:00:00", item, signal.high, signal.unit)
            if signal.kind == "procedure":
                row = procedure(12, 23, "2150-03-02 00:00:00", None, item)
            rows[folder[signal.kind]].append(row)
    events, _ = events_of(tmp_path, **rows)
    pairs = {(code, unit) for code, unit in events.select("code", "unit").iter_rows()}
    assert pairs == {(signal.code, signal.unit) for signal in load_signals()}
