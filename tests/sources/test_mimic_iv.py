"""MIMIC-IV's layout to the canonical tables: a good hospital, what may be absent, the real demo."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canonical_tables import ENDED, TABLES, count_reasons, extract_mimic, when
from demo_tables import COUNTS
from mimic_folder import hospital, measurement, procedure, write

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.base import EVENTS, IMAGES, LABELS, NOTES
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.tasks_file import load_signals

# Of MIMIC-IV-ED, a release of its own.
EMERGENCY = ("ed/edstays", "ed/triage", "ed/vitalsign", "ed/medrecon", "ed/pyxis")


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
    assert count_reasons(tables["lineage"], "hosp/admissions") == {None: 4, ENDED: 1}
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
    tables, _ = extract_mimic(write(tmp_path / "other", hospital(), suffix))
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
    extract_mimic(root)
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


def test_times_of_a_zone_become_utc(tmp_path):
    tables, _ = extract_mimic(write(tmp_path / "h", hospital()), timezone="America/New_York")
    first = tables["samples"].row(0, named=True)
    assert first["admit_time"] == when("2150-01-01 13:00")
    assert first["prediction_time"] == when("2150-01-02 13:00")
    assert tables["images"]["time"].to_list() == [when("2150-01-01 14:30:12")]
    data = hospital()
    data["hosp/admissions"][0]["admittime"] = "2150-01-01T08:00:00+02:00"
    tables, _ = extract_mimic(write(tmp_path / "offset", data))
    assert tables["samples"]["admit_time"][0] == when("2150-01-01 06:00")


def test_absent_tables_are_empty_and_said_so(tmp_path):
    data = {name: rows for name, rows in hospital().items() if name.startswith("hosp/")}
    tables, counts = extract_mimic(write(tmp_path / "h", data))
    assert len(tables["notes"]) == len(tables["images"]) == 0
    assert tables["notes"].schema["time"] == pl.Datetime("us")
    assert counts["absent"] == [
        "icu/chartevents",
        "icu/procedureevents",
        "hosp/procedures_icd",
        "hosp/prescriptions",
        "hosp/emar",
        "hosp/services",
        "hosp/transfers",
        "hosp/microbiologyevents",
        "hosp/omr",
        *EMERGENCY,
        "note/radiology",
        "note/discharge",
        "cxr/mimic-cxr-2.0.0-metadata",
    ]


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
    tables, _ = extract_mimic(write(tmp_path / "h", data | events), tasks=[])
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
    extract_mimic(write(tmp_path / "h", data))
    n_values = 0
    for table in ("samples", "events", "labels", "notes"):
        file = tmp_path / f"h-ingested/{table}.parquet"
        texts = [field.name for field in pq.read_schema(file) if pa.types.is_string(field.type)]
        for name, column in zip(
            texts, pq.read_table(file, columns=texts, read_dictionary=texts).columns, strict=True
        ):
            kept = set(column.combine_chunks().dictionary.to_pylist())
            if name not in ("code", "task", "source_file"):
                assert kept <= set(column.to_pylist()), (table, name)
                n_values += len(kept)
    assert n_values > 15


def test_fingerprint_follows_what_is_read(tmp_path):
    root = write(tmp_path, hospital())
    source = open_source("mimic-iv", root)
    first = source.fingerprint()
    write(root, {"hosp/pharmacy": [{"medication": "aspirin"}]})
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


@pytest.mark.slow(2)
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
    assert counts["absent"] == [
        "hosp/procedures_icd",
        "hosp/emar",
        "hosp/transfers",
        "hosp/microbiologyevents",
        "hosp/omr",
        *EMERGENCY,
    ]
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
    with pytest.raises(InputError, match="full or tiny"):
        open_source("demo", tmp_path, "huge")


def test_mimic_iv_demo(mimic_demo, mimic_demo_tables):
    to = mimic_demo_tables.path
    counts = json.loads((to / COUNTS).read_text())
    tables = {name: pl.read_parquet(to / f"{name}.parquet") for name in TABLES}
    assert counts["samples"] == len(tables["samples"]) == 275 - 30
    assert counts["absent"] == [
        "hosp/emar",
        *EMERGENCY,
        "note/radiology",
        "note/discharge",
        "cxr/mimic-cxr-2.0.0-metadata",
    ]
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
        count_reasons(tables["lineage"], "hosp/labevents")["not a listed signal"]
        == len(raw) - raw["itemid"].is_in(items).sum()
    )
    signals = {signal.code: signal.unit for signal in load_signals()}
    assert (tables["events"]["unit"] == tables["events"]["code"].replace_strict(signals)).all()
    died = tables["labels"].filter((pl.col("task") == "death_in_hospital") & (pl.col("value") == 1))
    assert len(died) == 14
