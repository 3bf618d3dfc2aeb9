"""A MEDS folder to the canonical tables; above all: the same hospital gives the same inputs as
through `mimic-iv`.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from canonical_tables import TABLES, extract_source
from meds_folder import as_meds
from mimic_folder import diagnosis, hospital, measurement, write

from m3h_core import TaskSpec
from m3h_pipeline import config
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.sources.meds import Meds
from m3h_pipeline.state.paths import contracts_folder

PROVENANCE = ["source_file", "source_row"]
ICU = [{"subject_id": 11, "hadm_id": 21, "stay_id": 3, "intime": "2150-01-01 20:00:00"}]


def inputs(ingested: Path, to: Path) -> dict[str, bytes]:
    """Split by the contracts as a run does it, then cut: the bytes of the inputs."""
    valid = {name: ingested.with_name(f"{ingested.name}-{name}") for name in TABLES[:-1]}
    tasks = [TaskSpec.from_dict(task) for task in json.loads((ingested / "tasks.json").read_text())]
    for name, folder in valid.items():
        folder.mkdir()
        samples = None if name == "samples" else valid["samples"] / "samples.parquet"
        split_rows(
            name,
            ingested / f"{name}.parquet",
            folder / f"{name}.parquet",
            folder / "quarantine.parquet",
            samples=samples,
            tasks=tasks,
        )
    (valid["samples"] / "columns.json").write_bytes((ingested / "columns.json").read_bytes())
    to.mkdir()
    write_inputs(valid, to)
    return {file.name: file.read_bytes() for file in to.iterdir()}


def accounted(lineage: pl.DataFrame) -> dict[str, int]:
    return dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[Path, Path]:
    """The small hospital in MIMIC-IV's layout without images, and the same as MEDS."""
    root = tmp_path_factory.mktemp("meds")
    tables = {name: rows for name, rows in hospital().items() if not name.startswith("cxr")} | {
        "icu/icustays": ICU
    }
    mimic = write(root / "mimic", tables)
    return mimic, as_meds(mimic, root / "meds")


@pytest.mark.parametrize(
    "how", [{}, {"prediction": "icu"}, {"prediction": "nightly", "timezone": "Europe/Berlin"}]
)
def test_the_same_hospital_gives_the_same_tables(folder, tmp_path, how):
    expected, _ = extract_source(open_source("mimic-iv", folder[0]), tmp_path / "a", **how)
    tables, counts = extract_source(open_source("meds", folder[1]), tmp_path / "b", **how)
    for name in TABLES[:-1]:
        columns = [column for column in expected[name].columns if column not in PROVENANCE]
        assert tables[name].select(columns).equals(expected[name].select(columns)), name
    assert len(tables["events"]) == 6
    assert len(tables["notes"]) == 2
    assert accounted(tables["lineage"]) == {
        f"data/train/{i}.parquet": len(pl.read_parquet(folder[1] / f"data/train/{i}.parquet"))
        for i in range(3)
    }
    assert counts["available_time"] == "its own column"


def test_where_a_row_comes_from(folder, tmp_path):
    tables, _ = extract_source(open_source("meds", folder[1]), tmp_path / "to")
    for file, row, code, value in (
        tables["events"].select("source_file", "source_row", "code", "value").iter_rows()
    ):
        raw = pl.read_parquet(folder[1] / file).row(row - 1, named=True)
        assert (raw["numeric_value"] or 1.0) == value
        assert code in ("heart_rate", "respiratory_rate", "glucose", "bronchoscopy")
        assert raw["code"].split("//")[0] in ("LAB", "PROCEDURE")


def test_codes_are_counted_without_the_columns_that_the_mapping_names(folder, tmp_path):
    mapping = yaml.safe_load((contracts_folder() / "meds.yaml").read_text())
    mapping["signals"] = {"glucose": ["LAB//RESULT//50931"]}
    mapping["stays"]["end"] = "discharged_at"
    codes = tmp_path / "codes.yaml"
    codes.write_text(yaml.safe_dump(mapping))
    _, counts = extract_source(open_source("meds", folder[1], codes=codes), tmp_path / "to")
    # Admission, discharge, ICU; birth, death, sex; four columns; two versions of the ICD, of
    # diagnoses and procedures; two kinds of notes; glucose; drugs ordered and given, three ways
    # into a unit and thirteen measurements between stays.
    assert counts["codes with a role"] == 3 + 3 + 4 + 2 + 2 + 2 + 1 + 2 + 3 + 13


def test_without_available_time_a_record_is_known_when_it_happens(folder, tmp_path):
    meds = as_meds(folder[0], tmp_path / "meds", without=("available_time",))
    tables, counts = extract_source(open_source("meds", meds), tmp_path / "to")
    for name in ("events", "notes"):
        late = tables[name].filter(pl.col("available_time") != pl.col("time"))
        # But for the discharge summary, which is not known before the discharge.
        assert len(late) == (1 if name == "notes" else 0)
    assert counts["available_time"] == "time: the data has no column available_time"
    # Diagnoses carry the time of the discharge: labels, and in no input.
    assert set(tables["events"]["code"]) == {
        "heart_rate",
        "respiratory_rate",
        "glucose",
        "bronchoscopy",
    }


def test_without_a_stays_id_stays_are_told_apart_by_time(folder, tmp_path):
    expected, _ = extract_source(open_source("mimic-iv", folder[0]), tmp_path / "a")
    meds = as_meds(folder[0], tmp_path / "meds", without=("hadm_id",))
    tables, _ = extract_source(open_source("meds", meds), tmp_path / "b")
    assert tables["samples"]["sample_id"][0] == "11-21500101T080000"
    same = ["subject_id", "admit_time", "prediction_time", "split", "age", "sex", "race"]
    assert tables["samples"].select(same).equals(expected["samples"].select(same))
    assert len(tables["events"]) == len(expected["events"])
    ids = dict(zip(tables["samples"]["sample_id"], expected["samples"]["sample_id"], strict=True))
    labels = (
        tables["labels"]
        .with_columns(pl.col("sample_id").replace_strict(ids))
        .select("sample_id", "task", "value")
    )
    # Patient 12's two stays overlap: their diagnoses can't be told apart, and are out of scope.
    is_clear = pl.col("sample_id").is_in(["21", "25"])
    assert labels.filter(is_clear).equals(
        expected["labels"].select(labels.columns).filter(is_clear)
    )
    reasons = set(tables["lineage"]["reason"])
    assert "no stay, or more than one, at that time" in reasons


def test_the_folders_own_splits(folder, tmp_path):
    root = as_meds(folder[0], tmp_path / "meds")
    given = pl.DataFrame({"subject_id": [11, 12], "split": ["held_out", "tuning"]})
    given.write_parquet(root / "metadata" / "subject_splits.parquet")
    tables, counts = extract_source(open_source("meds", root), tmp_path / "a")
    splits = dict(tables["samples"].select("subject_id", "split").iter_rows())
    assert splits["11"] == 3
    assert splits["12"] in (1, 2)
    assert counts["splits from"].startswith("metadata/subject_splits.parquet; 1 subjects")
    _, counts = extract_source(open_source("meds", root), tmp_path / "b", holdout_months=1)
    assert counts["splits from"] == "the last 1 months"
    given.with_columns(split=pl.lit("test")).write_parquet(
        root / "metadata" / "subject_splits.parquet"
    )
    with pytest.raises(
        InputError, match="rows with another split; MEDS knows train, tuning, held_out"
    ):
        extract_source(open_source("meds", root), tmp_path / "c")


def label_folder(root: Path) -> Path:
    when = dt.datetime(2150, 1, 3, 12)
    root.mkdir()
    rows = {"subject_id": [11, 13, 12], "prediction_time": [when, dt.datetime(2150, 5, 2), when]}
    pl.DataFrame({**rows, "boolean_value": [True, False, True]}).write_parquet(
        root / "readmitted.parquet"
    )
    (root / "ward").mkdir()
    words = pl.DataFrame({**rows, "categorical_value": ["b", "a", "b"]})
    words.write_parquet(root / "ward" / "0.parquet")
    return root


def test_a_folder_of_labels_says_when(folder, tmp_path):
    source = open_source("meds", folder[1], labels=label_folder(tmp_path / "labels"))
    tables, _ = extract_source(source, tmp_path / "to", prediction="given")
    # Patient 12 is not in at that time.
    assert tables["samples"]["sample_id"].to_list() == ["21-21500103T120000", "25-21500502T000000"]
    assert tables["labels"].select("sample_id", "task", "value").rows() == [
        ("21-21500103T120000", "readmitted", 1.0), ("21-21500103T120000", "ward", 1.0),
        ("25-21500502T000000", "readmitted", 0.0), ("25-21500502T000000", "ward", 0.0),
    ]  # fmt: skip
    tasks = json.loads((tmp_path / "to" / "tasks.json").read_text())
    assert [(task["name"], task["problem"], task["classes"]) for task in tasks] == [
        ("readmitted", "binary", None), ("ward", "multiclass", ["a", "b"])
    ]  # fmt: skip
    rows = accounted(tables["lineage"])
    assert rows["labels/ward/0.parquet"] == rows["labels/readmitted.parquet"] == 3
    with pytest.raises(InputError, match='prediction = "admission"; it knows given'):
        extract_source(source, tmp_path / "other")


def test_a_mapping_of_ones_own(folder, tmp_path):
    mapping = yaml.safe_load((contracts_folder() / "meds.yaml").read_text())
    mapping["signals"] = {"glucose": ["LOINC/2345-7"]}
    codes = tmp_path / "codes.yaml"
    codes.write_text(yaml.safe_dump(mapping))
    root = as_meds(folder[0], tmp_path / "meds")
    metadata = pl.read_parquet(root / "metadata" / "codes.parquet").with_columns(
        parent_codes=pl.when(pl.col("code") == "LAB//RESULT//50931//mg/dL").then(
            pl.lit(["LOINC/2345-7"])
        )
    )
    metadata.write_parquet(root / "metadata" / "codes.parquet")
    source = open_source("meds", root, codes=codes)
    tables, _ = extract_source(source, tmp_path / "to")
    assert tables["events"]["code"].to_list() == ["glucose"] * 2
    first = source.fingerprint()
    codes.write_text(yaml.safe_dump(mapping | {"notes": {}}))
    assert source.fingerprint() != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("signals: {pulse: [X]}", "signals: pulse is not known"),
        ("stay: {id: x}", "stay is not known; the keys are stays"),
        ("stays: {admission: X}", "stays: admission must be a list of codes"),
        ("stays: {admission: [X], icu: [X]}", "the code X has two roles"),
        ("- 1", "needs the keys"),
    ],
)
def test_a_wrong_mapping(folder, tmp_path, content, message):
    codes = tmp_path / "codes.yaml"
    codes.write_text(content)
    with pytest.raises(InputError, match=message):
        open_source("meds", folder[1], codes=codes).check()


def test_a_folder_that_is_no_meds(folder, tmp_path):
    with pytest.raises(InputError, match="is no MEDS folder"):
        open_source("meds", tmp_path).check()
    (tmp_path / "data").mkdir()
    rows = pl.DataFrame({"subject_id": ["a"], "time": [None], "code": ["X"]})
    rows.write_parquet(tmp_path / "data" / "0.parquet")
    with pytest.raises(InputError, match="not as MEDS' DataSchema says"):
        open_source("meds", tmp_path).check()
    (tmp_path / "data" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="it is damaged"):
        open_source("meds", tmp_path).check()
    with pytest.raises(InputError, match='can\'t predict with prediction = "image"'):
        extract_source(open_source("meds", folder[1]), tmp_path / "to", prediction="image")


def test_command_line_and_configuration_know_it(folder, tmp_path):
    chosen = config.configure_run(tmp_path, "meds", folder[1], None, "2026-11-01")
    assert isinstance(config.open_configured_source(chosen, tmp_path), Meds)
    assert (
        config.build_settings(chosen, config.open_configured_source(chosen, tmp_path)).prediction
        == "admission"
    )


def test_wrong_records_go_to_quarantine_as_ever(folder, tmp_path):
    tables = {
        name: rows for name, rows in hospital().items() if not name.startswith(("cxr", "note"))
    }
    tables["hosp/labevents"] += [
        measurement(11, 21, "2150-01-01 12:00:00", 50931, 100, "furlong"),
        measurement(11, 77, "2150-01-01 12:00:00", 50931, 100, "mg/dL"),
        measurement(12, 21, "2150-01-01 12:00:00", 50931, 100, "mg/dL"),
        {**measurement(11, 21, "2150-01-01 13:00:00", 50931, None, "mg/dL"), "value": "HEMOLYZED"},
    ]
    tables["hosp/diagnoses_icd"].append(diagnosis(21, "", 10))
    meds = as_meds(write(tmp_path / "mimic", tables), tmp_path / "meds")
    ingested, _ = extract_source(open_source("meds", meds), tmp_path / "to")
    wrong = ingested["events"].filter((pl.col("unit") == "furlong") | (pl.col("stay_id") == "77"))
    assert len(wrong) == 2
    errors = ingested["events"]["parse_errors"].drop_nulls().sort().to_list()
    assert errors == [
        "subject_id: not the patient of the stay",
        "value: not a number (raw value “HEMOLYZED”)",
    ]
    # A stay that no admission makes is not there; the small hospital is too small for its own
    # contract.
    inputs(tmp_path / "to", tmp_path / "inputs")
    quarantine = pl.read_parquet(tmp_path / "to-events" / "quarantine.parquet")
    assert sorted(quarantine["rule"]) == [
        "unknown_stay",
        "unknown_unit",
        "unreadable_field",
        "unreadable_field",
    ]


# On real patients ---------------------------------------------------------------------------------


def test_the_mimic_iv_demo_gives_the_same_inputs_by_every_way(mimic_demo, tmp_path):
    """Through `mimic-iv` and, converted, through the others; to add one, add its source.

    MIMIC-IV-MEDS has neither cultures nor services; a mapping of one's own gives the latter.
    """
    root = tmp_path / "mimic-iv-demo"
    for file in mimic_demo.rglob("*.csv.gz"):
        if "microbiology" not in file.name:
            link = root / file.relative_to(mimic_demo)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    mapping = yaml.safe_load((contracts_folder() / "meds.yaml").read_text())
    mapping["codes"]["service"] = ["SERVICE"]
    codes = tmp_path / "codes.yaml"
    codes.write_text(yaml.safe_dump(mapping))
    ways = {
        "mimic-iv": open_source("mimic-iv", root),
        "meds": open_source("meds", as_meds(root, tmp_path / "meds-demo"), codes=codes),
    }
    files = {}
    for name, source in ways.items():
        tables, counts = extract_source(source, tmp_path / name)
        files[name] = inputs(tmp_path / name, tmp_path / f"{name}-inputs")
        labels = tables["labels"].select("sample_id", "task", "value")
        files[name]["labels"] = labels.write_csv().encode()
        assert counts["samples"] == 245
    for name, contents in files.items():
        for file, content in contents.items():
            assert content == files["mimic-iv"][file], (name, file)
