"""A hospital's own tables: what is read of them."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any

import polars as pl
import pytest
import yaml
from passage import Passage
from tables_folder import event, hospital, image, note
from tables_passage import change_cohort, read_hospital

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_every_format_gives_the_same_inputs(tmp_path, suffix):
    expected = read_hospital(tmp_path / "csv")
    result = read_hospital(tmp_path / "other", suffix=suffix)
    assert result.inputs() == expected.inputs()
    assert result.valid("labels").equals(expected.valid("labels"))
    assert not any(split.quarantined for split in result.split.values())


def test_what_the_canonical_tables_hold(tmp_path):
    tables = hospital()
    tables["events"].append(
        event("s1", "2024-01-11T10:00:00+03:00", "Glucose-own", 7, "", "2024-01-11 08:30:00Z")
    )
    result = read_hospital(tmp_path, tables)
    first = result.valid("samples").row(0, named=True)
    assert first | {"split": None} == {
        "sample_id": "s1",
        "stay_id": "s1",
        "subject_id": "p1",
        "admit_time": dt.datetime(2024, 1, 11, 7),
        "discharge_time": dt.datetime(2024, 1, 16, 7),
        "prediction_time": dt.datetime(2024, 1, 12, 7),
        "split": None,
        "age": 41.0,
        "sex": "M",
        "ward": "surgery",
    }
    events = (
        result.valid("events").filter(pl.col("stay_id") == "s1").sort("code").drop("stay_id").rows()
    )
    assert events == [
        (dt.datetime(2024, 1, 11, 7), dt.datetime(2024, 1, 11, 8, 30), "Glucose-own", 7.0, ""),
        (
            dt.datetime(2024, 1, 11, 9),
            dt.datetime(2024, 1, 11, 10, 30),
            "glucose",
            pytest.approx(117.104),
            "mg/dL",
        ),
        (dt.datetime(2024, 1, 11, 8), dt.datetime(2024, 1, 11, 8), "heart_rate", 81.0, "bpm"),
        (dt.datetime(2024, 1, 11, 9), dt.datetime(2024, 1, 11, 9), "lactate", 2.0, "mmol/L"),
    ]
    assert result.valid("labels").filter(pl.col("sample_id") == "s2").sort("task")[
        "value"
    ].to_list() == [0.0, 2.0, 5.0]
    assert json.loads((result.ingested / "columns.json").read_text()) == {
        "features": ["age", "sex", "ward"],
        "audit": ["sex"],
    }
    assert [task["name"] for task in json.loads((result.ingested / "tasks.json").read_text())][
        -1
    ] == "phenotype"


def test_every_row_read_is_accounted_for(tmp_path):
    tables = hospital()
    tables["samples"][3]["discharge_time"] = "2024-01-14 20:00:00"  # after twelve hours
    tables["events"] += [
        event("s4", "2024-01-14 09:00:00", "lactate", 1, "mmol/L"),
        event("x", *["2024-01-14"] * 3, ""),
    ]
    tables["events"].append(event("s1", "2024-01-11 09:00:00", "lactate", "NA", "mmol/L"))
    tables["labels"].append({"sample_id": "s1", "task": "phenotype", "value": 1})
    result = read_hospital(tmp_path, tables)
    ended = "the stay ended before the prediction time"
    assert result.out_of_scope("samples") == {ended: 1}
    assert result.out_of_scope("events") == {ended: 4, "no value": 1}
    assert result.out_of_scope("notes") == {ended: 1}
    assert result.out_of_scope("labels") == {ended: 3, "a clustering needs no labels": 1}
    assert [rule for rule, _ in result.reasons("events")] == ["unreadable_field"]
    read = dict(result.read("lineage").group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert (
        read
        == result.facts["rows read"]
        == {
            "samples.csv": 4,
            "events.csv": 15,
            "notes.csv": 4,
            "labels.csv": 13,
        }
    )
    for table, split in result.split.items():
        kept = (
            result.read("lineage")
            .filter((pl.col("table") == table) & (pl.col("outcome") == "kept"))["rows"]
            .sum()
        )
        assert split.kept + split.quarantined == kept


def test_who_is_still_in_waits_for_the_prediction_time(tmp_path):
    """The latest time that is known is the discharge of the last stay; another is admitted four
    hours before.
    """
    tables = hospital()
    tables["samples"][0] |= {
        "admit_time": "2024-03-01 08:00:00",
        "discharge_time": "2024-03-09 12:00:00",
    }
    tables["samples"][1] |= {"admit_time": "2024-03-09 08:00:00", "discharge_time": ""}
    tables["samples"][2] |= {"admit_time": "2024-03-08 12:00:00", "discharge_time": ""}
    read = read_hospital(tmp_path, tables)
    lineage = pl.read_parquet(read.ingested / "lineage.parquet")
    to_come = lineage.filter(pl.col("reason") == "the prediction time is still to come")
    assert to_come.filter(pl.col("table") == "samples")["rows"].to_list() == [1]
    assert to_come["table"].n_unique() > 1


def test_given_prediction_times_alone_make_samples(tmp_path):
    tables = hospital()
    times = ["2024-01-12 20:00:00", "", "soon", "2024-01-14 08:00:00"]
    for row, time in zip(tables["samples"], times, strict=True):
        row["prediction_time"] = time
    result = read_hospital(tmp_path, tables, prediction="given")
    assert result.out_of_scope("samples") == {"no prediction time is given for the stay": 1}
    assert result.valid("samples").select("sample_id", "prediction_time").rows() == [
        ("s1", dt.datetime(2024, 1, 12, 19)),
        ("s4", dt.datetime(2024, 1, 14, 7)),
    ]
    assert [rule for rule, _ in result.reasons("samples")] == ["unreadable_field"]


@pytest.mark.parametrize(
    ("times", "message"), [(None, "no column prediction_time"), ([""] * 4, "empty in all 4 rows")]
)
def test_without_prediction_times_none_are_given(tmp_path, times, message):
    tables = hospital()
    for row, time in zip(tables["samples"], times or (), strict=times is not None):
        row["prediction_time"] = time
    with pytest.raises(InputError, match=message):
        read_hospital(tmp_path, tables, prediction="given")


def test_a_bare_date_is_known_at_the_end_of_its_day(tmp_path):
    tables = hospital()
    tables["events"] = [
        event("s1", "2024-01-12", "lactate", 1, ""),
        event("s1", "2024-01-11", "lactate", 2, ""),
    ]
    result = read_hospital(tmp_path, tables)
    assert result.valid("events")["available_time"].to_list() == [
        dt.datetime(2024, 1, 11, 23),
        dt.datetime(2024, 1, 12, 23),
    ]
    assert pl.read_parquet(tmp_path / "out/inputs/timeseries.parquet")["value"].to_list() == [2.0]


def test_what_is_known_later_never_takes_the_place_of_what_was_known(tmp_path):
    """Under one key, the record that was known first is kept, though another was taken, or stands,
    before it.
    """
    tables = hospital()
    tables["notes"] = [
        note("s1", "n1", "2024-01-11 09:00:00", "radiology", "Later.", "2024-01-13 09:00:00"),
        note("s1", "n1", "2024-01-11 10:00:00", "radiology", "First.", "2024-01-11 11:00:00"),
        # Clocks differ: known a little before it was taken, and both after the prediction.
        note("s1", "n2", "2024-01-12 08:30:00", "radiology", "Later.", "2024-01-12 07:45:00"),
        note("s1", "n2", "2024-01-12 07:50:00", "radiology", "First.", "2024-01-12 07:55:00"),
    ]
    result = read_hospital(tmp_path, tables)
    assert result.valid("notes")["text"].to_list() == ["First.", "First."]
    assert [rule for rule, _ in result.reasons("notes")] == ["duplicate_key", "duplicate_key"]


def test_several_samples_of_a_stay(tmp_path):
    tables = hospital()
    for row in tables["samples"]:
        row["sample_id"] = f"{row['stay_id']}-1"
        row["prediction_time"] = None
    tables["samples"].append(
        tables["samples"][0] | {"sample_id": "s1-0", "prediction_time": "2024-01-11 09:30:00"}
    )
    for row in tables["labels"]:
        row["sample_id"] += "-1"
    read_hospital(tmp_path, tables)
    inputs = pl.read_parquet(tmp_path / "out/inputs/timeseries.parquet")
    assert inputs.filter(pl.col("sample_id") == "s1-0")["code"].to_list() == ["heart_rate"]
    assert inputs.filter(pl.col("sample_id") == "s1-1")["code"].to_list() == [
        "glucose",
        "heart_rate",
        "lactate",
    ]


def test_a_given_split_by_name_or_number(tmp_path):
    tables = hospital()
    for row, split in zip(tables["samples"], ["train", 1, "Calibration", "3"], strict=True):
        row["split"] = split
    assert read_hospital(tmp_path, tables).valid("samples")["split"].to_list() == [0, 1, 2, 3]


def test_ids_that_became_floats_are_read_as_they_were(tmp_path):
    tables = hospital()
    for table in tables.values():
        for row in table:
            row |= {
                key: row[key].lstrip("sp")
                for key in ("stay_id", "sample_id", "subject_id")
                if key in row
            }
    expected = read_hospital(tmp_path / "whole", copy.deepcopy(tables)).inputs()
    for row in tables["samples"] + tables["events"]:
        row["stay_id"] += ".0"
    assert read_hospital(tmp_path / "floats", tables).inputs() == expected


def test_images_lie_relative_to_the_folder(tmp_path):
    tables = hospital()
    tables["images"] = [
        image("s1", "i1", "2024-01-11 12:00:00", "pictures/a.jpg"),
        image("s1", "i2", "2024-01-11 12:00:00", str(tmp_path / "b.jpg")),
        image("s1", "i3", "2024-01-11 12:00:00", "pictures/none.jpg"),
    ]
    for file in (tmp_path / "hospital/pictures/a.jpg", tmp_path / "b.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\xff\xd8")
    result = read_hospital(tmp_path, tables)
    assert result.valid("images")["path"].to_list() == [
        str(tmp_path / "hospital/pictures/a.jpg"),
        str(tmp_path / "b.jpg"),
    ]
    assert [rule for rule, _ in result.reasons("images")] == ["no_image_file"]


def test_reports_that_labels_come_from_are_left_out_for_all(tmp_path):
    tables = hospital()
    tables["notes"].append(note("s1", "other", "2024-01-11 12:00:00", "nursing", "Sleeps."))
    cohort = change_cohort()
    cohort["tasks"][0]["derived_from"] = ["Radiology"]
    result = read_hospital(tmp_path, tables, cohort)
    assert result.valid("notes")["kind"].to_list() == ["nursing"]
    assert result.out_of_scope("notes") == {"a report that labels come from: death": 4}


def test_own_codes_are_used_and_where_declared_checked(tmp_path):
    cohort = change_cohort(signals=[{"code": "lactate", "unit": "mmol/L", "low": 0, "high": 4}])
    tables = hospital()
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "lactate", 3, "mg/dL"))
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "anything", 1e9, "furlong"))
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "x" * 200, 1, ""))
    result = read_hospital(tmp_path, tables, cohort)
    assert sorted(rule for rule, _ in result.reasons("events")) == [
        "above_plausible_range",
        "unknown_code",
        "unknown_unit",
    ]
    assert "anything" in result.valid("events")["code"].to_list()


def test_columns_of_numbers_and_of_categories(tmp_path):
    tables = hospital(40)
    for i, row in enumerate(tables["samples"]):
        row |= {"frailty": "often" if i == 0 else i / 10, "ward": i % 3, "floor": i % 4}
    cohort = change_cohort(
        features=["age", "frailty", "ward", "floor"], categories=["ward"], audit=["floor"]
    )
    result = read_hospital(tmp_path, tables, cohort)
    kinds = result.valid("samples").schema
    assert (kinds["frailty"], kinds["ward"], kinds["floor"]) == (pl.Float64, pl.String, pl.Float64)
    assert result.reasons("samples") == [
        (
            "unreadable_field",
            "These fields could not be read: frailty: not a number (raw value “often”)",
        ),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_own_vectors_become_the_input_of_their_modality(tmp_path, suffix):
    tables = hospital()
    vectors = [[0.5, -1.25], [0.1, 2.0], [1e-7, 3.0], [1.0]]
    tables["embeddings"] = [
        {
            "sample_id": f"s{i}",
            "modality": "vision",
            "vector": vector if suffix == ".parquet" else str(vector),
        }
        for i, vector in enumerate(vectors, 1)
    ]
    if suffix == ".csv":
        tables["embeddings"] += [
            {"sample_id": "s1", "modality": "language", "vector": "[1, x]"},
            {"sample_id": "s1", "modality": "tabular", "vector": "[1, nan]"},
        ]
    result = read_hospital(tmp_path, tables, suffix=suffix)
    given = pl.read_parquet(tmp_path / "out/inputs/given_vision.parquet")
    assert given["sample_id"].to_list() == ["s1", "s2", "s3"]
    assert given["vector"].to_list() == pl.Series(vectors[:3], dtype=pl.List(pl.Float32)).to_list()
    rules = [rule for rule, _ in result.reasons("embeddings")]
    assert sorted(rules) == ["another_length"] + ["unreadable_field"] * (
        2 if suffix == ".csv" else 0
    )


@pytest.mark.parametrize("name", ["asked", "not_given", "given", "later", "columns", "types"])
def test_a_feature_may_have_any_name_that_the_samples_table_does_not_use(tmp_path, name):
    tables = hospital()
    for i, sample in enumerate(tables["samples"]):
        sample[name] = i
    result = read_hospital(tmp_path, tables, change_cohort(features=["age", name]))
    assert sorted(result.valid("samples")[name].to_list()) == [0, 1, 2, 3]


# Real patients ----------------------------------------------------------------------------------


def drop_nulls(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value is not None}


def test_mimic_iv_written_as_own_tables_gives_the_same_inputs(mimic_demo, tmp_path):
    """The 100 real patients of the MIMIC-IV demo, by their own source and, converted, by this
    one.
    """
    expected = Passage(open_source("mimic-iv", mimic_demo), tmp_path / "mimic-iv")
    root = tmp_path / "hospital"
    root.mkdir()
    for table in ("samples", "events", "codes", "labels"):
        frame = expected.valid(table)
        frame.write_csv(root / f"{table}.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    specs = json.loads((expected.ingested / "tasks.json").read_text())
    cohort = json.loads((expected.ingested / "columns.json").read_text())
    tasks = [drop_nulls(spec) for spec in specs]
    (root / "cohort.yaml").write_text(yaml.safe_dump({"timezone": "UTC", **cohort, "tasks": tasks}))
    result = Passage(open_source("tables", root), tmp_path / "tables")
    assert result.inputs() == expected.inputs()
    assert (
        result.valid("labels")
        .sort("sample_id", "task")
        .equals(expected.valid("labels").sort("sample_id", "task"))
    )
