"""A patient's values where nobody expects them: in a header, in the name of a file, in what a library says."""

from __future__ import annotations

import csv
from pathlib import Path

import haim_folder
import mimic_folder
import polars as pl
import pytest
import tables_folder

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Source, open_source

MARK = "mustermann"
MARKS = (MARK, "9999001", "1931-07-14")
ROW = "9999001,mustermann-erika,1931-07-14 08:00:00,mustermann,F"


def refused(source: Source) -> str:
    """The message of a source that can't be read; it holds no mark."""
    with pytest.raises(InputError) as error:
        source.check()
    assert not any(mark in str(error.value) for mark in MARKS), error.value
    return str(error.value)


def lose_header(file: Path) -> None:
    """A patient's row in the place of the header."""
    file.write_text(f"{ROW}\n{ROW}\n")


TABLES = ("samples", "events", "notes", "images", "labels", "embeddings")


@pytest.mark.parametrize("table", TABLES)
def test_a_lost_header_of_a_hospitals_own_table(tmp_path, table):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    lose_header(root / f"{table}.csv")
    message = refused(open_source("tables", root))
    assert f"{table}.csv lacks the column" in message
    assert "its first line (5 columns) looks like a row, not like a header" in message


@pytest.mark.parametrize("table", sorted(mimic_folder.hospital()))
def test_a_lost_header_of_mimic(tmp_path, table):
    root = mimic_folder.write(tmp_path / "hospital", mimic_folder.hospital(), suffix=".csv")
    lose_header(root / f"{table}.csv")
    assert "looks like a row, not like a header" in refused(open_source("mimic-iv", root))


@pytest.mark.parametrize("file", ["cxr_ic_fusion_1103.csv", "haim_mimiciv_key_ids.csv"])
def test_a_lost_header_of_haim(tmp_path, file):
    root = haim_folder.write(tmp_path, [haim_folder.row(1)], subjects=[7])
    lose_header(root / file)
    assert "looks like a row, not like a header" in refused(open_source("haim", root))


def test_a_lost_header_of_words_alone(tmp_path):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    (root / "notes.csv").write_text("mustermann,erika,surgery\nmustermann,max,surgery\n")
    assert "it has 3 columns, none with a name that is known here" in refused(open_source("tables", root))


def change_header(file: Path, old: str, new: str) -> None:
    rows = list(csv.reader(file.read_text().splitlines()))
    rows[0] = [new if name == old else name for name in rows[0]]
    with file.open("w", newline="") as to:
        csv.writer(to).writerows(rows)


@pytest.mark.parametrize(
    ("table", "old", "says"),
    [
        ("labels", "value", "if its column 3 is that one, rename it to value"),
        ("samples", "ward", "samples.csv has no column ward; it has stay_id, .* and 1 of another name"),
        ("samples", "admit_time", "lacks the column admit_time; .* and 1 of another name"),
    ],
)
def test_a_column_that_is_called_like_a_patient(tmp_path, table, old, says):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    change_header(root / f"{table}.csv", old, MARK)
    with pytest.raises(InputError, match=says):
        open_source("tables", root).check()
    refused(open_source("tables", root))


def test_two_columns_that_are_called_like_a_patient(tmp_path):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    header, *rows = (root / "labels.csv").read_text().split()
    lines = [f"{header},{MARK},{MARK}", *(f"{row},1,1" for row in rows)]
    (root / "labels.csv").write_text("\n".join(lines))
    assert "its columns 4 and 5 have the same name" in refused(open_source("tables", root))


def test_files_that_are_called_like_a_patient(tmp_path):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    (root / "labels.csv").rename(root / f"labels.{MARK}.csv")
    assert "has no labels.csv" in refused(open_source("tables", root))
    (root / f"labels.{MARK}.csv").rename(root / "label.csv")
    assert "is it label.csv? Save it under that name" in refused(open_source("tables", root))


def test_parquet_columns_that_are_called_like_a_patient(tmp_path):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital(), suffix=".parquet")
    pl.DataFrame({MARK: [1], "9999001": [2]}).write_parquet(root / "events.parquet")
    assert "looks like a row" in refused(open_source("tables", root))
