"""A patient's values where nobody expects them: in a header, in the name of a file, in what a
library says.
"""

from __future__ import annotations

import csv
import datetime as dt
import subprocess
import sys
from pathlib import Path

import duckdb
import haim_folder
import meds_folder
import mimic_folder
import polars as pl
import pytest
import tables_folder
from dagster._utils.error import serializable_error_info_from_exc_info

from m3h_pipeline import config
from m3h_pipeline.config import open_source
from m3h_pipeline.defs.failures import raise_as_failure
from m3h_pipeline.errors import InputError, ValueLeftOut
from m3h_pipeline.sources import Source

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


TABLES = ("samples", "events", "codes", "notes", "images", "labels", "embeddings")


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
    assert "it has 3 columns, none with a name that is known here" in refused(
        open_source("tables", root)
    )


def change_header(file: Path, old: str, new: str) -> None:
    rows = list(csv.reader(file.read_text().splitlines()))
    rows[0] = [new if name == old else name for name in rows[0]]
    with file.open("w", newline="") as to:
        csv.writer(to).writerows(rows)


@pytest.mark.parametrize(
    ("table", "old", "says"),
    [
        ("labels", "value", "if its column 3 is that one, rename it to value"),
        (
            "samples",
            "ward",
            "samples.csv has no column ward; it has stay_id, .* and 1 of another name",
        ),
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


# Through Dagster ----------------------------------------------------------------------------------


class Night:
    """A source's ingestion and validation under Dagster, in an out-folder, with all that was
    said.
    """

    def __init__(self, out: Path, source: str, folder: Path) -> None:
        self.out = out
        command = [sys.executable, "-c", NIGHT, out, source, folder]
        self.result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300
        )

    def traces(self) -> list[str]:
        """Where a mark stands: in what was said, in Dagster's records, in steps' records or in the
        lineage.
        """
        places = (
            ["the terminal"]
            if holds_mark((self.result.stdout + self.result.stderr).encode())
            else []
        )
        files = [file for file in self.out.rglob("*") if file.is_file()]
        records = [
            file
            for file in files
            if "snapshots" not in file.parts or file.name in ("step.json", "lineage.parquet")
        ]
        assert any(file.name == "step.json" for file in records) or self.result.returncode
        assert any(file.suffix == ".db" for file in records)
        for file in records:
            content = file.read_bytes()
            if file.suffix == ".parquet":
                content += pl.read_parquet(file).write_json().encode()
            if holds_mark(content):
                places.append(file.relative_to(self.out).as_posix())
        return places


def holds_mark(content: bytes) -> bool:
    return any(mark.encode() in content for mark in MARKS)


NIGHT = """
import sys
from pathlib import Path
from m3h_pipeline.cli.out_folder import prepare_run
out, source, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
config = prepare_run(out, source, folder, None, "2026-01-02")
import dagster as dg
from m3h_pipeline.definitions import MAIN_JOB, defs
from m3h_pipeline.defs.partitions import add_partition
with dg.DagsterInstance.get() as instance:
    add_partition(instance, config.source.snapshot)
    keys = ["samples", "events", "codes", "notes", "images", "embeddings", "labels"]
    wanted = dg.AssetSelection.assets(*keys, *(f"valid_{key}" for key in keys))
    result = defs.resolve_job_def(MAIN_JOB).execute_in_process(
        instance=instance, partition_key=config.source.snapshot, raise_on_error=False,
        asset_selection=list(wanted.resolve(defs.resolve_asset_graph())))
sys.exit(not result.success)
"""


def test_marks_in_cells_headers_and_names_of_files_stay_out_of_dagster(tmp_path):
    tables = tables_folder.hospital(30)
    for row in tables["samples"]:
        row |= {f"{MARK}_score": 1, "filed_mustermann": "2024-01-01"}
    for row in tables["events"]:
        row[f"result_{MARK}"] = 1
    tables["events"][3] |= {"code": MARK, "unit": MARK, "value": MARK}
    code = {"time": "2024-01-11 09:00:00", "kind": "drug", "code": "a/b", "value": 1}
    tables["codes"] = [{"stay_id": f"s{i}", **code} for i in range(1, 31)]
    tables["codes"][3] |= {"kind": MARK, "code": MARK, "value": MARK}
    tables["notes"][3] |= {"kind": MARK, "text": MARK, "time": MARK}
    tables["labels"][3]["value"] = MARK
    tables["images"] = [
        tables_folder.image("s1", MARK, "2024-01-11 09:00:00", f"../{MARK}.png", view=MARK)
    ]
    root = tables_folder.write(tmp_path / "hospital", tables)
    (root / f"{MARK}.csv").write_text(ROW)
    night = Night(tmp_path / "out", "tables", root)
    assert night.result.returncode in (0, 1)
    assert (tmp_path / "out/snapshots/2026-01-02/valid_labels/step.json").exists(), (
        night.result.stderr
    )
    assert night.traces() == []


def test_marks_in_a_meds_folder_stay_out_of_dagster(tmp_path):
    mimic = mimic_folder.write(tmp_path / "mimic", mimic_folder.hospital())
    root = meds_folder.as_meds(mimic, tmp_path / "meds")
    for file in sorted((root / "data").rglob("*.parquet")):
        rows = pl.read_parquet(file).with_columns(pl.lit(MARK).alias(MARK))
        rows.with_columns(code=pl.col("code").replace("LAB//220045//bpm", MARK)).write_parquet(file)
        file.rename(file.with_name(f"{MARK}-{file.name}"))
    night = Night(tmp_path / "out", "meds", root)
    assert (tmp_path / "out/snapshots/2026-01-02/ingested/step.json").exists(), night.result.stderr
    assert night.traces() == []


def test_marks_in_a_folder_of_meds_labels_stay_out_of_dagster(tmp_path):
    mimic = mimic_folder.write(tmp_path / "mimic", mimic_folder.hospital())
    root = meds_folder.as_meds(mimic, tmp_path / "meds")
    labels = tmp_path / "labels"
    (labels / "readmitted" / MARK).mkdir(parents=True)
    when = [dt.datetime(2150, 1, 3, 12), dt.datetime(2150, 5, 2)]
    rows = pl.DataFrame({"subject_id": [11, 13], "prediction_time": when})
    for number, name in enumerate((f"{MARK}.parquet", f"{MARK}/0.parquet")):
        of_one = rows[[number]].with_columns(boolean_value=pl.lit(True))
        of_one.write_parquet(labels / "readmitted" / name)
    out = tmp_path / "out"
    out.mkdir()
    chosen = config.configure_run(out, "meds", root, None, None)
    source = chosen.source.model_copy(update={"labels": str(labels)})
    cohort = chosen.cohort.model_copy(update={"prediction": "given"})
    config.save(chosen.model_copy(update={"source": source, "cohort": cohort}), out)
    night = Night(out, "meds", root)
    ingested = out / "snapshots/2026-01-02/ingested"
    assert (ingested / "step.json").exists(), night.result.stderr
    assert len(pl.read_parquet(ingested / "labels.parquet")) == 2
    assert night.traces() == []
    rows.with_columns(pl.lit(MARK).alias(MARK)).write_parquet(labels / "readmitted" / "1.parquet")
    assert "labels/readmitted/1.parquet is not as MEDS" in refused(
        config.open_configured_source(config.load(out), out)
    )
    (labels / "readmitted" / "1.parquet").unlink()
    (labels / "readmitted" / f"{MARK}.parquet").write_bytes(b"PAR1")
    assert "labels/readmitted/file 2 of 2 by name can't be read" in refused(
        config.open_configured_source(config.load(out), out)
    )


def test_marks_in_mimic_iv_stay_out_of_dagster(tmp_path):
    tables = mimic_folder.hospital()
    # Enough patients for every split, so that each table is judged.
    for number in range(100, 160):
        times = ("2150-01-01 08:00:00", "2150-01-06 08:00:00")
        tables["hosp/patients"].append(tables["hosp/patients"][0] | {"subject_id": number})
        tables["hosp/admissions"].append(
            mimic_folder.admission(number, 1000 + number, *times, place="HOME")
        )
    for rows in tables.values():
        for row in rows:
            row[f"result_{MARK}"] = MARK
        # A row of which every cell but the keys of its patient and stay is a patient's name.
        wrong = {name: MARK for name in rows[-1] if name not in ("subject_id", "hadm_id")}
        rows.append(rows[-1] | wrong)
        # And one that belongs to nobody who is known.
        rows.append(rows[-1] | dict.fromkeys(("subject_id", "hadm_id") & rows[-1].keys(), 9999001))
    tables["hosp/labevents"].append(
        mimic_folder.measurement(11, 21, "2150-01-01 09:30:00", 50931, MARK, MARK, comments=MARK)
    )
    tables["hosp/diagnoses_icd"].append(mimic_folder.diagnosis(21, MARK, 9))
    root = mimic_folder.write(tmp_path / "hospital", tables)
    for place in ("", "hosp", "icu", "note", "cxr"):
        (root / place / f"{MARK}.csv").write_text(ROW)
    night = Night(tmp_path / "out", "mimic-iv", root)
    snapshot = tmp_path / "out/snapshots/2026-01-02"
    assert (snapshot / "valid_labels/step.json").exists(), night.result.stderr[-5000:]
    assert holds_a_mark_in_quarantine(snapshot)
    assert night.traces() == []


def test_marks_in_haim_stay_out_of_dagster(tmp_path):
    rows = [haim_folder.row(stay) for stay in range(250)]
    for name in ("img_charttime", "Edema", "ViewPosition", "de_0", "split", "death_status"):
        rows.append(haim_folder.row(1, len(rows), **{name: MARK}))
    rows.append(haim_folder.row(1, len(rows), haim_id=MARK, img_id=MARK))
    rows.append(haim_folder.row(1, len(rows), haim_id=9999001, discharge_location=MARK))
    root = haim_folder.write(tmp_path / "haim", rows, subjects=[*range(248), MARK, 9999001])
    (root / f"{MARK}.csv").write_text(ROW)
    night = Night(tmp_path / "out", "haim", root)
    snapshot = tmp_path / "out/snapshots/2026-01-02"
    assert (snapshot / "valid_labels/step.json").exists(), night.result.stderr[-5000:]
    assert holds_a_mark_in_quarantine(snapshot)
    assert night.traces() == []


def holds_a_mark_in_quarantine(snapshot: Path) -> bool:
    """Whether a marked row was read and judged: else nothing was tried."""
    files = list(snapshot.rglob("*.parquet"))
    tables = [file for file in files if file.name != "lineage.parquet"]
    return any(holds_mark(pl.read_parquet(file).write_json().encode()) for file in tables)


def test_an_error_of_a_library_loses_what_it_quotes(tmp_path):
    """Through Dagster's own records of a failure, as an asset's step has them."""
    with pytest.raises(ValueLeftOut) as error, raise_as_failure():
        duckdb.sql(f"SELECT CAST('{MARK}' AS INT)").fetchall()
    recorded = serializable_error_info_from_exc_info(
        (type(error.value), error.value, error.value.__traceback__)
    )
    assert "ConversionException" in recorded.message
    assert not holds_mark(recorded.message.encode())
    assert recorded.cause is None
    assert recorded.context is None
