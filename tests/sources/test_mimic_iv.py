"""MIMIC-IV's layout to the canonical tables: every rule on a few rows, then the real demo."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_tables import COUNTS
from mimic_folder import (
    admission,
    as_csv,
    diagnosis,
    hospital,
    image,
    measurement,
    note,
    procedure,
    write,
    write_bytes,
)

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.base import EVENTS, IMAGES, LABELS, NOTES
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.raw_tables import RawReader, open_table
from m3h_pipeline.sources.tasks_file import load_signals

TABLES = ("samples", "events", "notes", "images", "labels", "lineage")
ENDED = "the stay ended before the prediction time"


def extract(root: Path, **settings) -> tuple[dict[str, pl.DataFrame], dict]:
    """The canonical tables of a folder, and the counts."""
    to = root.with_name(root.name + "-ingested")
    to.mkdir(exist_ok=True)
    counts = open_source("mimic-iv", root).extract(to, Settings(**settings))
    assert sorted(file.name for file in to.iterdir()) == sorted(
        [*(f"{name}.parquet" for name in TABLES), "columns.json", "tasks.json"]
    )
    return {name: pl.read_parquet(to / f"{name}.parquet") for name in TABLES}, counts


def when(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def reasons(lineage: pl.DataFrame, file: str) -> dict[str | None, int]:
    return dict(
        lineage.filter(pl.col("file").str.starts_with(file)).select("reason", "rows").iter_rows()
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, dict[str, pl.DataFrame], dict]:
    """The hospital without a fault: its folder, canonical tables and counts."""
    root = write(tmp_path_factory.mktemp("good") / "h", hospital())
    return root, *extract(root)


# What a good hospital becomes ---------------------------------------------------------------------


def test_samples(good):
    _, tables, counts = good
    samples = tables["samples"]
    assert samples["sample_id"].to_list() == ["21", "23", "24", "25"]
    first = samples.row(0, named=True)
    assert first["stay_id"] == "21"
    assert first["subject_id"] == "11"
    assert first["prediction_time"] == when("2150-01-02 08:00")
    # Admitted two years after the year to which anchor_age belongs.
    assert (first["age"], first["sex"], first["race"]) == (62.0, "F", "WHITE")
    assert (first["source_file"], first["source_row"], first["parse_errors"]) == (
        "hosp/admissions.csv.gz",
        1,
        None,
    )
    # MIMIC-IV has midnight as dischtime of the day of death.
    assert samples.row(3, named=True)["discharge_time"] == when("2150-05-04 12:00")
    assert samples.schema["split"] == pl.Int8
    assert samples.schema["admit_time"] == pl.Datetime("us")
    assert reasons(tables["lineage"], "hosp/admissions") == {None: 4, ENDED: 1}
    assert counts["samples"] == 4


def test_all_tables_have_the_canonical_columns(good):
    root, tables, _ = good
    for name, schema in (
        ("events", EVENTS),
        ("notes", NOTES),
        ("images", IMAGES),
        ("labels", LABELS),
    ):
        assert tables[name].columns == list(schema)
    for name in TABLES[:-1]:
        assert tables[name].columns[-3:] == ["source_file", "source_row", "parse_errors"]
    folder = root.with_name("h-ingested")
    columns = Columns.load(folder)
    assert set(columns.declared) <= set(tables["samples"].columns)
    assert "race" not in columns.features
    assert len(json.loads((folder / "tasks.json").read_text())) == 44


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_format_gives_the_same_tables(good, tmp_path, suffix):
    _, expected, _ = good
    tables, _ = extract(write(tmp_path / "other", hospital(), suffix))
    for name in TABLES[:-1]:
        drop = [column for column in ("source_file", "path") if column in tables[name].columns]
        assert tables[name].drop(drop).equals(expected[name].drop(drop)), name
    assert (
        tables["lineage"].drop("file", "sha256").equals(expected["lineage"].drop("file", "sha256"))
    )


def test_the_same_input_gives_the_same_bytes(good):
    root, *_ = good
    folder = root.with_name("h-ingested")
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    extract(root)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_lineage_accounts_for_every_row(good):
    root, result, _ = good
    lineage = result["lineage"]
    assert dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows()) == {
        f"{name}.csv.gz": len(rows) for name, rows in hospital().items()
    }
    for file, digest in lineage.select("file", "sha256").unique().iter_rows():
        assert hashlib.sha256((root / file).read_bytes()).hexdigest() == digest
    for name in TABLES[:-1]:
        kept = lineage.filter((pl.col("table") == name) & (pl.col("outcome") == "kept"))[
            "rows"
        ].sum()
        if name not in ("samples", "labels"):
            assert kept == len(result[name])


# Events -------------------------------------------------------------------------------------------


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
    result, _ = extract(write(tmp_path / "h", tables))
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
    assert reasons(lineage, "hosp/labevents") == {
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
    known = dict(events.select("code", "available_time").iter_rows())
    assert known == {
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
    assert reasons(lineage, "hosp/labevents") == {None: 7, "no value": 2}


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
    found = {(code, unit) for code, unit in events.select("code", "unit").iter_rows()}
    assert found == {(signal.code, signal.unit) for signal in load_signals()}


def test_times_of_a_zone_become_utc(tmp_path):
    tables, _ = extract(write(tmp_path / "h", hospital()), timezone="America/New_York")
    first = tables["samples"].row(0, named=True)
    assert first["admit_time"] == when("2150-01-01 13:00")
    assert first["prediction_time"] == when("2150-01-02 13:00")
    assert tables["images"]["time"].to_list() == [when("2150-01-01 14:30:12")]
    data = hospital()
    data["hosp/admissions"][0]["admittime"] = "2150-01-01T08:00:00+02:00"
    tables, _ = extract(write(tmp_path / "offset", data))
    assert tables["samples"]["admit_time"][0] == when("2150-01-01 06:00")


# Notes and images ---------------------------------------------------------------------------------


def test_notes(tmp_path):
    data = hospital()
    data["note/radiology"] += [
        note("11-RR-2", 11, None, "2150-01-02 09:00:00", "2150-01-02 10:00:00", "By time."),
        note("11-RR-3", 11, None, "2150-07-02 09:00:00", None, "Outside."),
    ]
    tables, counts = extract(write(tmp_path / "h", data))
    notes = tables["notes"]
    assert notes["note_id"].to_list() == ["11-RR-1", "11-RR-2", "11-DS-1"]
    assert notes["kind"].to_list() == ["radiology", "radiology", "discharge"]
    assert notes["text"][0] == 'No effusion,\n"clear".'
    # A discharge summary's charttime is the midnight before; it is known at the discharge.
    assert notes["available_time"].to_list() == [
        when("2150-01-01 21:00"), when("2150-01-02 10:00"), when("2150-01-06 08:00")
    ]  # fmt: skip
    assert reasons(tables["lineage"], "note/radiology") == {
        None: 2, "no hadm_id, and taken outside any stay": 1
    }  # fmt: skip
    assert counts["absent"] == []
    assert counts["placed by time"]["radiology"] == 1


@pytest.mark.parametrize("folder", ["cxr/", ""])
def test_images(tmp_path, folder):
    data = hospital()
    rows = data.pop("cxr/mimic-cxr-2.0.0-metadata")
    data[f"{folder}mimic-cxr-2.0.0-metadata"] = [*rows, image("d3", 11, 53, 21500102, "noon")]
    root = write(tmp_path / "h", data)
    jpeg = root / folder / "files" / "p11" / "p11" / "s51" / "d1.jpg"
    jpeg.parent.mkdir(parents=True)
    jpeg.write_bytes(b"jpeg")
    tables, _ = extract(root)
    images = tables["images"].sort("source_row")
    assert images["image_id"].to_list() == ["d1", "d3"]
    assert images["stay_id"].to_list() == ["21", None]
    assert images["time"].to_list() == [when("2150-01-01 09:30:12"), None]
    assert images["view"][0] == "PA"
    assert images["path"][0] == str(jpeg)
    assert Path(images["path"][0]).is_absolute()
    assert images["parse_errors"].to_list() == [None, "studydate, studytime: not a date"]
    assert reasons(tables["lineage"], f"{folder}mimic-cxr") == {
        None: 2,
        "no hadm_id, and taken outside any stay": 1,
    }


def test_absent_tables_are_empty_and_said_so(tmp_path):
    data = {name: rows for name, rows in hospital().items() if name.startswith("hosp/")}
    tables, counts = extract(write(tmp_path / "h", data))
    assert len(tables["notes"]) == len(tables["images"]) == 0
    assert tables["notes"].schema["time"] == pl.Datetime("us")
    assert counts["absent"] == [
        "icu/chartevents", "icu/procedureevents", "note/radiology", "note/discharge", "cxr/mimic-cxr-2.0.0-metadata"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "events",
    [
        {},
        {"icu/chartevents": [measurement(11, 21, "2150-01-01 10:00:00", 999, 80, "bpm")]},
        {"icu/chartevents": [measurement(None, None, None, 220045, 80, "bpm")]},
        {
            "icu/procedureevents": [
                procedure(11, 21, "2150-01-01 12:00:00", "2150-01-01 12:01:00", 999)
            ]
        },
    ],
    ids=["no table", "no listed item", "no stay", "no listed procedure"],
)
def test_hospitals_with_hardly_any_event(tmp_path, events):
    data = {name: rows for name, rows in hospital().items() if "events" not in name}
    tables, _ = extract(write(tmp_path / "h", data | events), tasks=[])
    assert tables["events"].columns == list(EVENTS)
    assert set(tables["events"]["stay_id"]) <= {None}
    assert not len(tables["labels"])


def test_no_column_remembers_who_was_left_out(tmp_path):
    """Parquet keeps the values of a column in dictionaries: none may hold one that no row has, such
    as a short stay.
    """
    data = hospital()
    data["icu/chartevents"].append(
        measurement(11, 22, "2150-02-01 09:00:00", 220045, 80, "beats a minute")
    )
    extract(write(tmp_path / "h", data))
    found = 0
    for table in ("samples", "events", "labels", "notes"):
        file = tmp_path / f"h-ingested/{table}.parquet"
        texts = [field.name for field in pq.read_schema(file) if pa.types.is_string(field.type)]
        for name, column in zip(
            texts, pq.read_table(file, columns=texts, read_dictionary=texts).columns, strict=True
        ):
            kept = set(column.combine_chunks().dictionary.to_pylist())
            if name not in ("code", "task", "source_file"):
                assert kept <= set(column.to_pylist()), (table, name)
                found += len(kept)
    assert found > 15


# Labels -------------------------------------------------------------------------------------------


def labels_of(
    tmp_path: Path, admissions=None, diagnoses=None
) -> tuple[dict, pl.DataFrame, pl.DataFrame]:
    data = hospital()
    data["hosp/admissions"] = admissions or data["hosp/admissions"]
    data["hosp/diagnoses_icd"] = diagnoses or data["hosp/diagnoses_icd"]
    tables, _ = extract(write(tmp_path / "h", data))
    return known_labels(tables["labels"]), tables["labels"], tables["lineage"]


def known_labels(labels: pl.DataFrame) -> dict[tuple[str, str], float | None]:
    return {
        (sample, task): value
        for sample, task, value in labels.select("sample_id", "task", "value").iter_rows()
    }


def test_diagnosis_labels(good):
    labels = good[1]["labels"]
    lineage = good[1]["lineage"]
    known = known_labels(labels)
    assert known["21", "heart_failure"] == 1.0
    assert known["23", "heart_failure"] == 1.0
    assert known["24", "heart_failure"] == 0.0
    # A dot in a code is no other code.
    assert known["25", "acute_kidney_injury"] == 1.0
    assert not any(sample == "22" for sample, _ in known)
    assert ("21", "phenotype") not in known
    assert set(labels.filter(pl.col("task") == "heart_failure")["source_file"]) == {
        "hosp/diagnoses_icd.csv.gz"
    }
    assert reasons(lineage, "hosp/diagnoses_icd") == {None: 5, ENDED: 1}


def test_the_version_of_a_code_counts(tmp_path):
    # E11 is diabetes in ICD-10; in ICD-9 there is an external cause of that name.
    known, *_ = labels_of(tmp_path, diagnoses=[diagnosis(21, "E110", 9), diagnosis(23, "E110", 10)])
    assert (known["21", "diabetes"], known["23", "diabetes"]) == (0.0, 1.0)


def test_a_stay_without_codes_has_no_diagnosis_labels(tmp_path):
    known, *_ = labels_of(tmp_path, diagnoses=[diagnosis(21, "4280", 9)])
    assert ("23", "heart_failure") not in known
    assert ("23", "length_of_stay") in known


def test_wrong_diagnoses_decide_nothing_and_go_on(tmp_path):
    known, labels, lineage = labels_of(
        tmp_path,
        diagnoses=[
            diagnosis(21, "4280", 9), diagnosis(23, "4280", 11), diagnosis(99, "4280", 9), diagnosis(24, "", 9),
            diagnosis(None, "4280", 9),
        ],
    )  # fmt: skip
    assert ("23", "heart_failure") not in known
    wrong = labels.filter(pl.col("task").is_null()).sort("source_row")
    assert wrong.select("sample_id", "source_row", "parse_errors").rows() == [
        ("23", 2, "icd_version: not 9 or 10"),
        ("99", 3, "hadm_id: not in admissions"),
        ("24", 4, "icd_code: empty"),
        (None, 5, "hadm_id: empty"),
    ]
    assert reasons(lineage, "hosp/diagnoses_icd") == {None: 5}


def test_operations_labels(good):
    known = known_labels(good[1]["labels"])
    assert known["21", "length_of_stay"] == 5.0
    # To the death, not to the midnight before.
    assert known["25", "length_of_stay"] == 3.5
    assert (known["21", "death_in_hospital"], known["25", "death_in_hospital"]) == (0.0, 1.0)
    classes = ["home", "home_with_services", "facility", "other", "died"]
    places = [classes[int(known[stay, "discharge_location"])] for stay in ("21", "23", "24", "25")]
    assert places == ["home", "facility", "other", "died"]


def test_unknown_and_contradictory_outcomes(tmp_path):
    start = "2150-01-01 08:00:00"
    end = "2150-01-06 08:00:00"
    known, labels, _ = labels_of(
        tmp_path,
        admissions=[
            admission(11, 31, start, end, place=None),
            admission(11, 32, start, end, place="THE MOON"),
            admission(11, 33, start, end, place="DIED"),
            admission(11, 34, start, end, place="HOME", died=end, hospital_expire_flag=0),
            admission(11, 35, start, end, place=None, hospital_expire_flag=None),
            admission(11, 36, start, None, place=None),
        ],
    )
    wrong = labels.filter(pl.col("parse_errors").is_not_null() & pl.col("task").is_not_null()).sort(
        "sample_id", "task"
    )
    assert wrong.select("sample_id", "task", "parse_errors").rows() == [
        ("32", "discharge_location", "discharge_location: not a known place"),
        ("33", "death_in_hospital", "discharge_location: contradicts hospital_expire_flag"),
        ("33", "discharge_location", "discharge_location: contradicts hospital_expire_flag"),
        ("34", "death_in_hospital", "hospital_expire_flag: contradicts deathtime"),
        ("34", "discharge_location", "hospital_expire_flag: contradicts deathtime"),
    ]
    assert wrong["value"].null_count() == len(wrong)
    assert known["31", "death_in_hospital"] == 0.0
    assert ("31", "discharge_location") not in known
    assert ("35", "death_in_hospital") not in known
    # A stay that goes on has no labels at all.
    assert not any(sample == "36" for sample, _ in known)


def test_a_subset_of_the_tasks(tmp_path):
    tables, _ = extract(
        write(tmp_path / "h", hospital()), tasks=["gout", "death_in_hospital", "phenotype"]
    )
    assert set(tables["labels"]["task"]) == {"gout", "death_in_hospital"}
    names = [
        task["name"] for task in json.loads((tmp_path / "h-ingested" / "tasks.json").read_text())
    ]
    assert names == ["gout", "death_in_hospital", "phenotype"]


# Wrong rows ---------------------------------------------------------------------------------------


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
    tables, _ = extract(write(tmp_path / "h", data))
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
    assert reasons(tables["lineage"], "hosp/patients") == {
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
    tables, _ = extract(root)
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
    assert reasons(tables["lineage"], "icu/chartevents") == {None: 1000}


@pytest.mark.parametrize("column", range(9))
def test_broken_bytes_anywhere_leave_the_connection_whole(tmp_path, column):
    """DuckDB 1.5 may answer them, in a column that is not asked for, with an internal error that
    ends everything.
    """
    rows = as_csv(hospital()["hosp/labevents"]).encode().splitlines(keepends=True)
    cells = rows[2].strip().split(b",")
    cells[column] = b"\xff" + cells[column]
    file = tmp_path / "labevents.csv.gz"
    write_bytes(file, rows[0] + rows[1] + b",".join(cells) + b"\n" + rows[1])
    with duckdb.connect() as connection:
        table = open_table(tmp_path, file, ["hadm_id", "value"])
        assert RawReader(connection, tmp_path).load(table, "labs", ["hadm_id", "value"]) == 3
        found = connection.execute("SELECT broken FROM labs ORDER BY source_row").fetchall()
    problem = {1: "hadm_id: not UTF-8", 5: "value: not UTF-8"}.get(column)
    assert [row[0] for row in found] == [None, problem, None]


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
    tables, _ = extract(root)
    events = tables["events"].filter(pl.col("source_file") == "icu/chartevents.csv")
    assert sorted(events["source_row"]) == [i + 1 for i in range(0, n, 7)]
    assert ((events["source_row"] - 1) % 300 == events["value"]).all()
    assert reasons(tables["lineage"], "icu/chartevents") == {
        None: len(events),
        "not a listed signal": n - len(events),
    }


# Errors that a user is meant to read --------------------------------------------------------------


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
        match=r"labevents\.csv\.gz lacks the column valuenum; it has subject_id, .* 2 of another name: rename value_nu",
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
        extract(root)
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
    tables, _ = extract(root)
    assert reasons(tables["lineage"], "hosp/labevents") == {None: 2}


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
        extract(write(tmp_path / "h", hospital()), **settings)
    assert not (tmp_path / "h-ingested" / ".spill").exists()


# Fingerprint --------------------------------------------------------------------------------------


def test_fingerprint_follows_what_is_read(tmp_path):
    root = write(tmp_path, hospital())
    source = open_source("mimic-iv", root)
    first = source.fingerprint()
    write(root, {"hosp/prescriptions": [{"drug": "aspirin"}]})
    assert source.fingerprint() == first
    jpeg = root / "cxr" / "files" / "p11" / "p11" / "s51" / "d1.jpg"
    jpeg.parent.mkdir(parents=True)
    jpeg.write_bytes(b"jpeg")
    with_image = source.fingerprint()
    write(root, {"hosp/labevents": hospital()["hosp/labevents"] * 2})
    assert len({first, with_image, source.fingerprint()}) == 3


def test_no_source_can_replay_the_past(tmp_path):
    assert not open_source("mimic-iv", tmp_path).supports_as_of
    assert not open_source("demo", tmp_path).supports_as_of


# The demo hospital, and the real demo -------------------------------------------------------------


def test_demo_is_written_once_and_read_as_mimic_iv(tmp_path, monkeypatch):
    pytest.importorskip("m3h_pipeline.demo")
    monkeypatch.setattr(
        "m3h_pipeline.demo.source.SIZES", {"full": (20, None), "tiny": (20, ("gout", "phenotype"))}
    )
    source = open_source("demo", tmp_path / "demo-hospital", "tiny")
    assert source.tasks == ("gout", "phenotype")
    for to in (tmp_path / "first", tmp_path / "second"):
        to.mkdir()
        counts = source.extract(to, Settings(tasks=source.tasks))
        written = (tmp_path / "demo-hospital" / "hosp").stat().st_mtime_ns
    assert (tmp_path / "demo-hospital" / "hosp").stat().st_mtime_ns == written
    assert counts["samples"] > 0
    assert counts["absent"] == []
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
    with pytest.raises(InputError, match="full or tiny"):
        open_source("demo", tmp_path, "huge")


def test_mimic_iv_demo(mimic_demo, mimic_demo_tables):
    to = mimic_demo_tables.path
    counts = json.loads((to / COUNTS).read_text())
    tables = {name: pl.read_parquet(to / f"{name}.parquet") for name in TABLES}
    assert counts["samples"] == len(tables["samples"]) == 275 - 30
    assert counts["absent"] == ["note/radiology", "note/discharge", "cxr/mimic-cxr-2.0.0-metadata"]
    for name in TABLES[:-1]:
        assert tables[name]["parse_errors"].null_count() == len(tables[name])
    # The same counts by another engine.
    raw = pl.read_csv(mimic_demo / "hosp/labevents.csv.gz", infer_schema=False)
    items = [
        str(item) for signal in load_signals() if signal.kind == "lab" for item in signal.mimic_iv
    ]
    usable = raw.filter(pl.col("itemid").is_in(items) & pl.col("valuenum").is_not_null())
    labs = tables["events"].filter(pl.col("source_file") == "hosp/labevents.csv.gz")
    by_key = usable.filter(pl.col("hadm_id").is_in(tables["samples"]["stay_id"].to_list()))
    assert len(labs) == len(by_key) + counts["placed by time"]["labevents"]
    assert counts["placed by time"]["labevents"] == 170
    assert (
        reasons(tables["lineage"], "hosp/labevents")["not a listed signal"]
        == len(raw) - raw["itemid"].is_in(items).sum()
    )
    signals = {signal.code: signal.unit for signal in load_signals()}
    assert (tables["events"]["unit"] == tables["events"]["code"].replace_strict(signals)).all()
    died = tables["labels"].filter((pl.col("task") == "death_in_hospital") & (pl.col("value") == 1))
    assert len(died) == 14
