"""Each kind of wrong row, through the source that reads MIMIC-IV's files: caught, named, and alone
in being caught.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from mimic_folder import as_csv, write, write_bytes
from mimic_wrong_rows import CXR, NOTES, STAYS, WRONG, good

from m3h_core import TaskSpec
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.sources import Settings
from m3h_pipeline.state.lineage import find_unaccounted, read_whole_lineage


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
            last = dict(rows[3])
            if name == NOTES:
                last["note_id"] = "last"
            if name == CXR:
                last["dicom_id"] = "last"
            if "charttime" in last:
                last["charttime"] = "2150-03-01 15:00:00"
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
    quarantined = outcome.quarantine[wrong.table].filter(
        (pl.col("source_file") == file) & (pl.col("source_row") == row)
    )
    assert set(quarantined["rule"]) == {wrong.rule}
    assert all(wrong.reason in reason for reason in quarantined["reason"])


def test_no_good_row_is_in_quarantine(outcome: Outcome) -> None:
    """Nor does a wrong row take a good one along."""
    expected = set(outcome.places)
    for table, rows in outcome.quarantine.items():
        quarantined = set(
            rows.filter(pl.col("rule") != "sample_quarantined")
            .select("source_file", "source_row")
            .iter_rows()
        )
        assert quarantined <= expected, (table, quarantined - expected)


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
        of_table = lineage.filter(pl.col("table") == table)
        if table != "labels":
            file = pl.col("file").str.starts_with("hosp/patients")
            kept = of_table.filter((pl.col("outcome") == "kept") & ~file)["rows"].sum()
            valid = pl.read_parquet(outcome.valid[table] / f"{table}.parquet")
            if table == "codes":
                # Rows of admissions and diagnoses, which are counted where they are read first.
                valid = valid.filter(~pl.col("kind").str.starts_with("earlier_"))
            assert kept == len(valid)
            quarantined = outcome.quarantine[table]
            quarantined = quarantined.filter(pl.col("source_file").is_in(list(of_table["file"])))
            count = of_table.filter(pl.col("outcome") == "quarantined")["rows"].sum()
            assert count == len(quarantined)


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
