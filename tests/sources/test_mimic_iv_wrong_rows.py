"""Wrong rows and broken files of MIMIC-IV's layout: no good row is lost."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest
from canonical_tables import count_reasons, extract_mimic
from mimic_folder import admission, as_csv, hospital, measurement, write, write_bytes

from m3h_pipeline.sources.raw_tables import RawReader, open_table


def test_wrong_admissions(tmp_path):
    data = hospital()
    data["hosp/admissions"] += [
        admission(11, 41, "soon", "2150-06-06 08:00:00"),
        admission(11, 42, "2150-06-01 08:00:00", "2150-05-01 08:00:00"),
        admission(77, 43, "2150-06-01 08:00:00", "2150-06-06 08:00:00"),
        admission(11, 44, "2150-06-02 08:00:00", "2150-06-06 08:00:00", died="2150-06-01 08:00:00"),
        admission(11, 21, "2150-01-01 08:00:00", "2150-01-06 08:00:00"),
    ]
    data["hosp/patients"] += [
        {"subject_id": 12, "gender": "F", "anchor_age": 40, "anchor_year": 2150, "dod": None},
        {"subject_id": 14, "gender": "F", "anchor_age": 40, "anchor_year": 2150, "dod": None},
    ]
    tables, _ = extract_mimic(write(tmp_path / "h", data))
    samples = tables["samples"].sort("source_row")
    wrong = samples.filter(pl.col("source_row") > 5)
    assert wrong.select("sample_id", "parse_errors").rows() == [
        ("41", "admittime: not a date (raw value “soon”)"),
        ("42", None),
        ("43", "subject_id: not in patients"),
        ("44", "deathtime: before admittime"),
        ("21", None),
    ]
    assert wrong["prediction_time"][0] is None
    assert set(samples.filter(pl.col("subject_id") == "12")["parse_errors"]) == {
        "subject_id: patients contradict"
    }
    # A stay that is there twice does not double its events.
    assert tables["events"].select("source_file", "source_row").is_unique().all()
    assert count_reasons(tables["lineage"], "hosp/patients") == {
        None: 3, "the same patient again": 1, "no stay in the cohort": 1
    }  # fmt: skip
    assert set(tables["labels"]["sample_id"].drop_nulls()) == {"21", "25"}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_broken_file_loses_no_good_row(tmp_path, suffix):
    data = hospital()
    data["icu/chartevents"] = [
        measurement(12, 23, f"2150-03-02 {i // 60:02}:{i % 60:02}:00", 220045, 60 + i % 50, "bpm")
        for i in range(1000)
    ]
    root = write(tmp_path / "h", data, suffix)
    file = root / f"icu/chartevents{suffix}"
    lines = as_csv(data["icu/chartevents"]).encode().splitlines(keepends=True)
    lines[10] = lines[10].replace(b"bpm", b"bp\xff")
    lines[20] = b"12,23,2150-03-02\n"
    lines[30] = b'12,23,"2150-03-02' + lines[30]
    lines[40] = lines[40].replace(b"bpm,", b"bpm,\xff\xfe")
    lines[50] = lines[50].replace(b"bpm,", b'bpm,"two\nlines ""quoted"""')
    lines[60] = lines[60].replace(b"bpm,", b"bpm," + b"x" * 1_500_000)
    lines[70] = lines[70].replace(b"bpm,", b'bpm,5" tube')
    lines[80] = b"\n" + lines[80]
    write_bytes(file, b"".join(lines))
    tables, _ = extract_mimic(root)
    events = (
        tables["events"]
        .filter(pl.col("source_file") == f"icu/chartevents{suffix}")
        .sort("source_row")
    )
    assert events["source_row"].to_list() == list(range(1, 1001))
    wrong = events.filter(pl.col("parse_errors").is_not_null())
    assert wrong.select("source_row", "parse_errors").rows() == [
        (10, "valueuom: not UTF-8"),
        (20, "row: 3 fields, expected 9"),
        (30, "row: a quote or line end is out of place"),
        (60, "row: too long"),
    ]
    good = events.filter(pl.col("parse_errors").is_null())
    assert good["value"].to_list() == [60 + (row - 1) % 50 for row in good["source_row"]]
    assert count_reasons(tables["lineage"], "icu/chartevents") == {None: 1000}


@pytest.mark.parametrize("column", range(9))
def test_broken_bytes_anywhere_leave_the_connection_whole(tmp_path, column):
    """DuckDB 1.5 may answer them, in a column that is not asked for, with an internal error that
    ends everything.
    """
    lines = as_csv(hospital()["hosp/labevents"]).encode().splitlines(keepends=True)
    cells = lines[2].strip().split(b",")
    cells[column] = b"\xff" + cells[column]
    file = tmp_path / "labevents.csv.gz"
    write_bytes(file, lines[0] + lines[1] + b",".join(cells) + b"\n" + lines[1])
    with duckdb.connect() as connection:
        table = open_table(tmp_path, file, ["hadm_id", "value"])
        assert RawReader(connection, tmp_path).load(table, "labs", ["hadm_id", "value"]) == 3
        rows = connection.execute("SELECT broken FROM labs ORDER BY source_row").fetchall()
    problem = {1: "hadm_id: not UTF-8", 5: "value: not UTF-8"}.get(column)
    assert [row[0] for row in rows] == [None, problem, None]


def test_row_numbers_of_a_file_that_is_read_in_parallel(tmp_path):
    data = hospital()
    n = 300_000
    header = as_csv(data["icu/chartevents"]).splitlines()[0]
    rows = [
        "12,23,2150-03-02 "
        f"00:00:00,,{220045 if i % 7 == 0 else 1},{i % 300},{i % 300},bpm,{'x' * 30}"
        for i in range(n)
    ]
    root = write(tmp_path / "h", data, ".csv")
    (root / "icu/chartevents.csv").write_text("\n".join([header, *rows]))
    tables, _ = extract_mimic(root)
    events = tables["events"].filter(pl.col("source_file") == "icu/chartevents.csv")
    assert sorted(events["source_row"]) == [i + 1 for i in range(0, n, 7)]
    assert ((events["source_row"] - 1) % 300 == events["value"]).all()
    assert count_reasons(tables["lineage"], "icu/chartevents") == {
        None: len(events),
        "not a listed signal": n - len(events),
    }
