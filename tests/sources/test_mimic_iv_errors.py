"""Errors that a user of a MIMIC-IV folder is meant to read."""

from __future__ import annotations

import gzip

import pytest
from canonical_tables import count_reasons, extract_mimic
from mimic_folder import hospital, write, write_bytes

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError


def test_missing_folder_and_folder_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_source("mimic-iv", tmp_path / "nowhere").check()
    with pytest.raises(InputError, match=r"no MIMIC-IV folder, it lacks hosp/patients\.csv\.gz"):
        open_source("mimic-iv", tmp_path).check()
    with pytest.raises(InputError, match="no source 'omop'; choose one of demo, mimic-iv"):
        open_source("omop", tmp_path)


def test_a_missing_column_is_named(tmp_path):
    data = hospital()
    for row in data["hosp/labevents"]:
        row["value_number"] = row.pop("valuenum")
    with pytest.raises(
        InputError,
        match=r"labevents\.csv\.gz lacks the column valuenum; it has subject_id, .* "
        r"2 of another name: rename value_nu",
    ):
        open_source("mimic-iv", write(tmp_path, data)).check()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"subject_id,gender,anchor_age,anchor_year\n", "no rows")],
)
def test_empty_tables(tmp_path, content, message):
    root = write(tmp_path, hospital())
    write_bytes(root / "hosp/patients.csv.gz", content)
    with pytest.raises(InputError, match=rf"patients\.csv\.gz .*{message}"):
        open_source("mimic-iv", root).check()


def test_no_bytes_at_all_and_no_gzip(tmp_path):
    root = write(tmp_path, hospital())
    for content in (b"", b"subject_id,gender\n1,F\n"):
        (root / "hosp/patients.csv.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"patients\.csv\.gz"):
            open_source("mimic-iv", root).check()


@pytest.mark.parametrize("damage", ["half", "line end", "check sum", "flipped"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    data = hospital()
    data["hosp/labevents"] *= 5000
    root = write(tmp_path / "h", data)
    file = root / "hosp/labevents.csv.gz"
    whole = file.read_bytes()
    if damage == "half":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "line end":
        # All rows are there, the trailer is not: DuckDB alone reads this without a word.
        file.write_bytes(whole[:-8])
    elif damage == "check sum":
        file.write_bytes(whole[:-8] + bytes(8))
    else:
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(
        InputError, match=r"labevents\.csv\.gz (ends too early|is damaged|can't be read)"
    ) as caught:
        extract_mimic(root)
    assert "2150" not in str(caught.value)


def test_a_damaged_parquet_file_is_named(tmp_path):
    root = write(tmp_path / "h", hospital(), ".parquet")
    file = root / "hosp/labevents.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"labevents\.parquet can't be read"):
        open_source("mimic-iv", root).check()


def test_a_gzip_file_of_several_parts_is_whole(tmp_path):
    root = write(tmp_path / "h", hospital())
    file = root / "hosp/labevents.csv.gz"
    header, first, rest = gzip.decompress(file.read_bytes()).split(b"\n", 2)
    parts = [header + b"\n" + first + b"\n", rest]
    file.write_bytes(b"".join(gzip.compress(part) for part in parts))
    tables, _ = extract_mimic(root)
    assert count_reasons(tables["lineage"], "hosp/labevents") == {None: 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_hours": 0}, "above 0"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"memory_limit": "some"}, "memory_limit 'some'"),
        ({"memory_limit": "1MB"}, "memory_limit = 1MB"),
        ({"tasks": ["tea"]}, "no task tea"),
    ],
)
def test_impossible_settings(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        extract_mimic(write(tmp_path / "h", hospital()), **settings)
    assert not (tmp_path / "h-ingested" / ".spill").exists()
