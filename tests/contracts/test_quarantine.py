"""Each kind of wrong row, through the source that reads MIMIC-IV's files: caught, named, and alone
in being caught.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mimic_folder import (
    Tables,
    admission,
    as_csv,
    diagnosis,
    image,
    measurement,
    note,
    write,
    write_bytes,
)

from m3h_core import TaskSpec
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.sources import Settings
from m3h_pipeline.state.lineage import find_unaccounted, read_whole_lineage

STAYS = 24
LABS = "hosp/labevents"
VITALS = "icu/chartevents"
NOTES = "note/radiology"
CXR = "cxr/mimic-cxr-2.0.0-metadata"
IN = "2150-03-01 08:00:00"
OUT = "2150-03-06 08:00:00"
TAKEN = "2150-03-01 10:00:00"


def lab(**others: Any) -> dict[str, object]:
    """A good creatinine of the first stay, with these differences."""
    row = measurement(100, 1000, TAKEN, 50912, 1.1, "mg/dL", stored="2150-03-01 11:00:00")
    return {**row, **others}


def stay(hadm: object, **others: Any) -> dict[str, object]:
    """A stay of a patient of whom there is nothing else: pictures are placed by time, which two
    stays would share.
    """
    return {**admission(198, hadm, IN, OUT, place="HOME"), **others}


def text(key: str, content: str | None, **others: Any) -> dict[str, object]:
    return {**note(key, 100, 1000, TAKEN, None, content), **others}


@dataclass(frozen=True)
class Wrong:
    """A wrong row: its kind, the file it stands in, the row (or its bytes), and how quarantine must
    name it.
    """

    kind: str
    file: str
    row: dict[str, object] | bytes
    rule: str
    reason: str
    table: str = field(default="")

    def __post_init__(self) -> None:
        tables = {
            "hosp/admissions": "samples",
            "hosp/diagnoses_icd": "labels",
            NOTES: "notes",
            CXR: "images",
        }
        object.__setattr__(self, "table", self.table or tables.get(self.file, "events"))


UNREADABLE = "unreadable_field"
WRONG = [
    # Stays
    Wrong("no such day", "hosp/admissions", stay(1, admittime="2150-02-30 08:00:00"), UNREADABLE, "admittime: not a"),
    Wrong("no date", "hosp/admissions", stay(2, dischtime="next week"), UNREADABLE, "dischtime: not a date"),
    Wrong("discharge before admission", "hosp/admissions", stay(3, admittime=OUT, dischtime=IN),
          "discharge_before_admission", "must not lie before the admission"),
    Wrong("death before admission", "hosp/admissions", stay(4, deathtime="2150-01-01 08:00:00"), UNREADABLE,
          "deathtime: before admittime"),
    Wrong("death before birth", "hosp/admissions",
          stay(5, admittime="2050-03-01 08:00:00", dischtime="2050-03-06 08:00:00", deathtime="2050-03-06 08:00:00"),
          "implausible_age", "before birth"),
    Wrong("a stay of the year 2999", "hosp/admissions",
          stay(6, subject_id=199, admittime="2999-03-01 08:00:00", dischtime="2999-03-06 08:00:00"),
          "implausible_admission_year", "between the years 1900 and 2300"),
    Wrong("the same stay twice", "hosp/admissions", stay(1000, subject_id=100), "duplicate_key", "the first is kept"),
    Wrong("a patient whom nobody knows", "hosp/admissions", stay(7, subject_id=555), UNREADABLE,
          "subject_id: not in patients"),
    Wrong("an absurdly long key", "hosp/admissions", stay("9" * 300), "malformed_sample_id", "1 to 128 characters"),
    Wrong("no key", "hosp/admissions", stay(None), "missing_sample_id", "must be there"),
    # Measurements
    Wrong("text in a number", LABS, lab(valuenum="HEMOLYZED"), UNREADABLE, "valuenum: not a number"),
    Wrong("infinity", LABS, lab(valuenum="inf"), UNREADABLE, "valuenum: not a number"),
    Wrong("an impossible value", LABS, lab(value=1390, valuenum=1390), "above_plausible_range", "plausible range"),
    Wrong("a negative value", LABS, lab(value=-3, valuenum=-3), "below_plausible_range", "plausible range"),
    Wrong("an unknown unit", LABS, lab(valueuom="furlongs"), "unknown_unit", "unit must be the one"),
    Wrong("an orphan key", LABS, lab(hadm_id=424242), "unknown_stay", "one of the samples"),
    Wrong("another patient's stay", LABS, lab(subject_id=101), UNREADABLE, "subject_id: not the patient of the stay"),
    Wrong("neither stay nor time", LABS, lab(hadm_id=None, charttime=None), "missing_stay_id", "must be there"),
    Wrong("the same row twice", LABS, lab(), "duplicate_key", "the first is kept"),
    Wrong("long before the stay", LABS, lab(charttime="2150-01-01 10:00:00", storetime=None),
          "taken_before_admission", "more than 2 days before"),
    Wrong("long after the stay", LABS, lab(charttime="2155-01-01 10:00:00", storetime=None),
          "taken_after_discharge", "more than 2 days after"),
    Wrong("the future of a patient still in", LABS, lab(subject_id=101, hadm_id=1001, charttime="2190-01-01 10:00:00",
          storetime=None), "taken_after_discharge", "2 years after the admission"),
    Wrong("too few fields", VITALS, b"100,1000,2150-03-01\n", UNREADABLE, "row: 3 fields, expected 9"),
    Wrong("too many fields", VITALS, b"100,1000," + b"x," * 20 + b"\n", UNREADABLE, "row: 23 fields, expected 9"),
    Wrong("a quote that is never closed", VITALS, b'100,1000,"2150-03-01 10:00:00,,220045,80,80,bpm,\n', UNREADABLE,
          "row: a quote or line end is out of place"),
    Wrong("NUL characters", VITALS, b"100,1000,2150-03-01 12:00:00,,220045,80,8\x00\x000,bpm,\n", UNREADABLE,
          "valuenum: not a number"),
    Wrong("a row of a million characters", VITALS, b"100,1000,2150-03-01 12:00:00,,220045,80,80,bpm," + b"x" * 1_500_000
          + b"\n", UNREADABLE, "row: too long"),
    # Notes
    Wrong("broken UTF-8", NOTES, b"n-utf8,100,1000,2150-03-01 10:00:00,,Temp\xff 38 \xfeC\n", UNREADABLE,
          "text: not UTF-8"),
    Wrong("no text", NOTES, text("n-empty", " "), "empty_text", "more than blanks"),
    Wrong("a note without a key", NOTES, text("", "Clear lungs."), "missing_note_id", "must be there"),
    Wrong("a later note of one key", NOTES, text("n-0", "Clear.", storetime="2150-03-01 23:00:00"), "duplicate_key",
          "the first is kept"),
    # Images
    Wrong("a picture without a file", CXR, image("nofile", 100, 50, 21500301, 100000), "no_image_file", "file"),
    Wrong("a picture without a byte", CXR, image("empty", 100, 50, 21500301, 110000), "empty_image_file", "file"),
    Wrong("a picture of no day", CXR, image("d-day", 100, 50, 21500230, 100000), UNREADABLE, "not a date"),
    # Labels
    Wrong("a code of no ICD", "hosp/diagnoses_icd", diagnosis(1000, "4280", 11), UNREADABLE, "icd_version: not 9"),
    Wrong("a code of no stay", "hosp/diagnoses_icd", diagnosis(424242, "4280", 9), UNREADABLE,
          "hadm_id: not in admissions"),
    Wrong("no code", "hosp/diagnoses_icd", diagnosis(1000, "", 9), UNREADABLE, "icd_code: empty"),
    Wrong("an unknown place", "hosp/admissions", stay(8, discharge_location="THE MOON"), UNREADABLE,
          "discharge_location: not a known place", "labels"),
]  # fmt: skip


def good() -> Tables:
    """Stays of a patient each; the second is still in hospital."""
    ids = range(STAYS)
    end = {1: None}
    people = [
        {"subject_id": 100 + i, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None}
        for i in ids
    ]
    people += [
        {"subject_id": 198, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None},
        {"subject_id": 199, "gender": "F", "anchor_age": 60, "anchor_year": 2999, "dod": None},
    ]
    return {
        "hosp/patients": people,
        "hosp/admissions": [
            admission(100 + i, 1000 + i, IN, end.get(i, OUT), place="HOME") for i in ids
        ],
        "hosp/diagnoses_icd": [diagnosis(1000 + i, "4280", 9) for i in ids],
        LABS: [{**lab(), "subject_id": 100 + i, "hadm_id": 1000 + i} for i in ids],
        VITALS: [measurement(100 + i, 1000 + i, TAKEN, 220045, 80, "bpm") for i in ids],
        NOTES: [note(f"n-{i}", 100 + i, 1000 + i, TAKEN, None, "No effusion.") for i in ids],
        CXR: [image(f"d{i}", 100 + i, 50, 21500301, 93012.5) for i in ids],
    }


def picture(root: Path, subject: int, key: str, content: bytes = b"\xff\xd8") -> None:
    file = root / "cxr" / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / "s50" / f"{key}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@dataclass(frozen=True)
class Outcome:
    ingested: Path
    valid: dict[str, Path]
    quarantine: dict[str, pl.DataFrame]
    rows_read: dict[str, int]
    # (file, number in it) of each wrong row, in the order of WRONG
    places: list[tuple[str, int]]


@pytest.fixture(scope="module", params=[".csv", ".csv.gz"])
def outcome(request, tmp_path_factory) -> Outcome:
    """Good and wrong rows in the same files, read, and split by their contracts, under the loosest
    umask.
    """
    folder = tmp_path_factory.mktemp("hospital")
    root = folder / "h"
    suffix = request.param
    tables = good()
    write(root, tables, suffix)
    lines = {name: as_csv(rows).encode() for name, rows in tables.items()}
    counts = {name: len(rows) for name, rows in tables.items()}
    places = []
    for wrong in WRONG:
        row = wrong.row
        if isinstance(row, dict):
            row = (
                as_csv([{key: row.get(key) for key in tables[wrong.file][0]}])
                .encode()
                .split(b"\r\n", 1)[1]
            )
        lines[wrong.file] += row
        counts[wrong.file] += 1
        places.append((f"{wrong.file}{suffix}", counts[wrong.file]))
    # A good row comes last in every file, so that reading must have got there.
    for name, rows in tables.items():
        if name not in ("hosp/patients", "hosp/admissions"):
            last = {**rows[3], **({"note_id": "last"} if name == NOTES else {}), **(
                {"charttime": "2150-03-01 15:00:00"} if "charttime" in rows[3] else {}), **(
                {"dicom_id": "last"} if name == CXR else {})}  # fmt: skip
            lines[name] += as_csv([last]).encode().split(b"\r\n", 1)[1]
            counts[name] += 1
        write_bytes(root / f"{name}{suffix}", lines[name])
    for i in range(STAYS):
        picture(root, 100 + i, f"d{i}")
    picture(root, 103, "last")
    picture(root, 100, "empty", b"")
    mask = os.umask(0)
    try:
        ingested = folder / "ingested"
        ingested.mkdir()
        facts = open_source("mimic-iv", root).extract(ingested, Settings())
        tasks = [
            TaskSpec.from_dict(task) for task in json.loads((ingested / "tasks.json").read_text())
        ]
        valid = {}
        for table in (table for table in TABLES if (ingested / f"{table}.parquet").exists()):
            to = folder / "valid" / table
            to.mkdir(parents=True)
            samples = None if table == "samples" else valid["samples"]
            split_rows(
                table,
                ingested / f"{table}.parquet",
                to / f"{table}.parquet",
                to / "quarantine.parquet",
                samples=samples and samples / "samples.parquet",
                quarantined_samples=samples and samples / "quarantine.parquet",
                tasks=tasks,
            )
            valid[table] = to
    finally:
        os.umask(mask)
    quarantine = {table: pl.read_parquet(to / "quarantine.parquet") for table, to in valid.items()}
    return Outcome(ingested, valid, quarantine, facts["rows read"], places)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[wrong.kind for wrong in WRONG])
def test_a_wrong_row_is_in_quarantine_with_its_reason(outcome: Outcome, number: int) -> None:
    wrong = WRONG[number]
    (file, row) = outcome.places[number]
    found = outcome.quarantine[wrong.table].filter(
        (pl.col("source_file") == file) & (pl.col("source_row") == row)
    )
    assert set(found["rule"]) == {wrong.rule}
    assert all(wrong.reason in reason for reason in found["reason"])


def test_no_good_row_is_in_quarantine(outcome: Outcome) -> None:
    """Nor does a wrong row take a good one along."""
    expected = set(outcome.places)
    for table, rows in outcome.quarantine.items():
        found = set(
            rows.filter(pl.col("rule") != "sample_quarantined")
            .select("source_file", "source_row")
            .iter_rows()
        )
        assert found <= expected, (table, found - expected)


def test_good_rows_of_the_same_files_get_through(outcome: Outcome) -> None:
    kept = {table: pl.read_parquet(to / f"{table}.parquet") for table, to in outcome.valid.items()}
    # The stay whose place is unknown is a good one but for that label.
    assert sorted(kept["samples"]["stay_id"]) == sorted(
        [*(str(1000 + i) for i in range(STAYS)), "8"]
    )
    assert len(kept["events"]) == 2 * (STAYS + 1)
    assert sorted(kept["notes"]["note_id"]) == sorted([*(f"n-{i}" for i in range(STAYS)), "last"])
    assert sorted(kept["images"]["image_id"]) == sorted([*(f"d{i}" for i in range(STAYS)), "last"])
    failure = kept["labels"].filter(pl.col("task") == "heart_failure")
    # Of the patient still in nothing is known yet.
    assert len(failure) == STAYS - 1
    assert (failure["value"] == 1.0).all()


def test_the_sums_agree(outcome: Outcome) -> None:
    lineage = read_whole_lineage(outcome.ingested, outcome.valid)
    assert dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows()) == outcome.rows_read
    for table in outcome.valid:
        assert find_unaccounted(outcome.ingested, table, outcome.rows_read) == []
        mine = lineage.filter(pl.col("table") == table)
        if table != "labels":
            file = pl.col("file").str.starts_with("hosp/patients")
            kept = mine.filter((pl.col("outcome") == "kept") & ~file)["rows"].sum()
            assert kept == len(pl.read_parquet(outcome.valid[table] / f"{table}.parquet"))
            assert mine.filter(pl.col("outcome") == "quarantined")["rows"].sum() == len(
                outcome.quarantine[table]
            )


def test_only_its_owner_reads_it(outcome: Outcome) -> None:
    for folder in outcome.valid.values():
        assert stat.S_IMODE((folder / "quarantine.parquet").stat().st_mode) == 0o600


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_it_is_published_for_its_owner_alone(
    outcome: Outcome, tmp_path: Path, monkeypatch, mask: int
) -> None:
    page = tmp_path / "report"
    (page / "quarantine").mkdir(parents=True)
    (page / "quarantine").chmod(0o700)
    shutil.copy(
        outcome.valid["events"] / "quarantine.parquet", page / "quarantine" / "events.parquet"
    )
    seen = []
    copy = shutil.copyfile

    def watched(source, to, **named):
        seen.append(stat.S_IMODE((tmp_path / ".latest.partial").stat().st_mode))
        return copy(source, to, **named)

    monkeypatch.setattr(shutil, "copyfile", watched)
    before = os.umask(mask)
    try:
        latest = publish(tmp_path, page)
    finally:
        os.umask(before)
    assert stat.S_IMODE((latest / "quarantine").stat().st_mode) == 0o700
    assert stat.S_IMODE((latest / "quarantine" / "events.parquet").stat().st_mode) == 0o600
    # While it is being copied, nobody else can look into the folder at all.
    assert seen == [0o700]
