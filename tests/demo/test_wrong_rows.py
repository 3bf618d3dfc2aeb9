"""Rows that are wrong on purpose: they are what the list says, and each is found."""

from pathlib import Path

import polars as pl
from demo_rows import read_rows
from PIL import Image

from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.sources.base import Settings
from m3h_pipeline.sources.mimic_iv import MimicIV
from m3h_pipeline.sources.tasks_file import load_tasks

METADATA = "cxr/mimic-cxr-2.0.0-metadata"


def test_wrong_rows_are_what_the_list_says(hospital, wrong):
    assert 40 <= wrong.height <= 100
    tables = {
        name.removesuffix(".csv.gz"): read_rows(hospital, name.removesuffix(".csv.gz"))
        for name in wrong["file"].unique()
    }
    hadm_ids = set(tables["hosp/admissions"]["hadm_id"])
    paths = {path.stem: path for path in hospital.rglob("*.jpg")}
    for file, row, kind in wrong.iter_rows():
        table = file.removesuffix(".csv.gz")
        cells = tables[table].row(row - 1, named=True)
        text = " ".join(value for value in cells.values() if value)
        is_kind = {
            "bad_date": "02-30" in text or "0230" in text,
            "broken_utf8": "\ufffd" in text,
            "discharge_before_admission": cells.get("dischtime", "") < cells.get("admittime", ""),
            "duplicate": kind == "duplicate"
            and tables[table].rows().count(tuple(cells.values())) == 2,
            "empty_file": "dicom_id" in cells
            and paths.get(cells["dicom_id"], hospital).stat().st_size == 0,
            "empty_text": (cells.get("text") or " ").isspace(),
            "impossible_value": cells.get("valuenum") in ("900", "1390"),
            "missing_file": "dicom_id" in cells and cells["dicom_id"] not in paths,
            "orphan_hadm_id": cells.get("hadm_id") not in hadm_ids,
            "text_in_number": any(word in text for word in ("unknown", "HEMOLYZED", "see note")),
            "truncated_file": "dicom_id" in cells and not readable(paths.get(cells["dicom_id"])),
            "unknown_unit": cells.get("valueuom") in ("drops", "furlongs"),
            "unknown_version": cells.get("icd_version") == "11",
        }
        assert is_kind[kind], (file, row, kind)
    shares = wrong.group_by("file").len()
    for file, count in shares.iter_rows():
        assert count / tables[file.removesuffix(".csv.gz")].height < 0.05, file


def readable(file: Path | None) -> bool:
    try:
        with Image.open(file) as picture:
            picture.load()
    except (OSError, AttributeError):
        return False
    return True


def test_contracts_find_every_wrong_row(hospital, wrong, tmp_path):
    MimicIV(hospital).extract(tmp_path, Settings())
    tasks = [rule.spec for rule in load_tasks()]
    caught = []
    for table in ("samples", "events", "codes", "notes", "images", "labels"):
        folder = tmp_path / "valid" / table
        folder.mkdir(parents=True)
        result = split_rows(
            table,
            tmp_path / f"{table}.parquet",
            folder / f"{table}.parquet",
            folder / "quarantine.parquet",
            samples=None
            if table == "samples"
            else tmp_path / "valid" / "samples" / "samples.parquet",
            quarantined_samples=None
            if table == "samples"
            else tmp_path / "valid" / "samples" / "quarantine.parquet",
            tasks=tasks,
        )
        assert result.share < 0.05, table
        caught.append(
            pl.read_parquet(folder / "quarantine.parquet").select(
                "source_file", "source_row", "rule"
            )
        )
    caught = pl.concat(caught)
    missed = wrong.join(
        caught, left_on=["file", "row"], right_on=["source_file", "source_row"], how="anti"
    )
    # A patient's wrong age makes the rows of its stays wrong; a truncated picture is found when it
    # is opened.
    assert set(missed.select("file", "kind").rows()) == {
        ("hosp/patients.csv.gz", "text_in_number"),
        (f"{METADATA}.csv.gz", "truncated_file"),
    }
    # All that is caught was planted, or belongs to a stay that was.
    planted = caught.filter(pl.col("rule") != "sample_quarantined")
    extra = planted.join(
        wrong, left_on=["source_file", "source_row"], right_on=["file", "row"], how="anti"
    )
    assert extra.filter(pl.col("source_file") != "hosp/admissions.csv.gz").is_empty()
    assert extra.height == 1
