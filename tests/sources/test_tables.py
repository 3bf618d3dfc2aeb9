"""A hospital's own tables: what is read, what each mistake is answered with, and the page that
explains the format.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from passage import Passage
from tables_folder import COHORT, event, hospital, image, note, write

from m3h_pipeline import config
from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings

PAGE = Path(__file__).parents[2] / "docs" / "sources" / "tables.md"


def passage(
    folder: Path, tables=None, cohort=None, suffix: str = ".csv", **settings: Any
) -> Passage:
    write(folder / "hospital", tables or hospital(), cohort, suffix)
    return Passage(open_source("tables", folder / "hospital"), folder / "out", Settings(**settings))


def with_cohort(**changes: Any) -> dict[str, Any]:
    cohort = copy.deepcopy(COHORT) | changes
    return {key: value for key, value in cohort.items() if value is not None}


# What is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_every_format_gives_the_same_inputs(tmp_path, suffix):
    expected = passage(tmp_path / "csv")
    found = passage(tmp_path / "other", suffix=suffix)
    assert found.inputs() == expected.inputs()
    assert found.valid("labels").equals(expected.valid("labels"))
    assert not any(split.quarantined for split in found.split.values())


def test_what_the_canonical_tables_hold(tmp_path):
    tables = hospital()
    tables["events"].append(
        event("s1", "2024-01-11T10:00:00+03:00", "Glucose-own", 7, "", "2024-01-11 08:30:00Z")
    )
    found = passage(tmp_path, tables)
    first = found.valid("samples").row(0, named=True)
    assert first | {"split": None} == {
        "sample_id": "s1", "stay_id": "s1", "subject_id": "p1", "admit_time": dt.datetime(2024, 1, 11, 7),
        "discharge_time": dt.datetime(2024, 1, 16, 7), "prediction_time": dt.datetime(2024, 1, 12, 7), "split": None,
        "age": 41.0, "sex": "M", "ward": "surgery",
    }  # fmt: skip
    events = (
        found.valid("events").filter(pl.col("stay_id") == "s1").sort("code").drop("stay_id").rows()
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
    assert found.valid("labels").filter(pl.col("sample_id") == "s2").sort("task")[
        "value"
    ].to_list() == [0.0, 2.0, 5.0]
    assert json.loads((found.ingested / "columns.json").read_text()) == {
        "features": ["age", "sex", "ward"], "audit": ["sex"],
    }  # fmt: skip
    assert [task["name"] for task in json.loads((found.ingested / "tasks.json").read_text())][
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
    found = passage(tmp_path, tables)
    ended = "the stay ended before the prediction time"
    assert found.out_of_scope("samples") == {ended: 1}
    assert found.out_of_scope("events") == {ended: 4, "no value": 1}
    assert found.out_of_scope("notes") == {ended: 1}
    assert found.out_of_scope("labels") == {ended: 3, "a clustering needs no labels": 1}
    assert [rule for rule, _ in found.reasons("events")] == ["unreadable_field"]
    read = dict(found.read("lineage").group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert read == found.facts["rows read"] == {
        "samples.csv": 4, "events.csv": 15, "notes.csv": 4, "labels.csv": 13,
    }  # fmt: skip
    for table, split in found.split.items():
        kept = (
            found.read("lineage")
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
    read = passage(tmp_path, tables)
    lineage = pl.read_parquet(read.ingested / "lineage.parquet")
    to_come = lineage.filter(pl.col("reason") == "the prediction time is still to come")
    assert to_come.filter(pl.col("table") == "samples")["rows"].to_list() == [1]
    assert to_come["table"].n_unique() > 1


def test_given_prediction_times_alone_make_samples(tmp_path):
    tables = hospital()
    times = ["2024-01-12 20:00:00", "", "soon", "2024-01-14 08:00:00"]
    for row, time in zip(tables["samples"], times, strict=True):
        row["prediction_time"] = time
    found = passage(tmp_path, tables, prediction="given")
    assert found.out_of_scope("samples") == {"no prediction time is given for the stay": 1}
    assert found.valid("samples").select("sample_id", "prediction_time").rows() == [
        ("s1", dt.datetime(2024, 1, 12, 19)), ("s4", dt.datetime(2024, 1, 14, 7)),
    ]  # fmt: skip
    assert [rule for rule, _ in found.reasons("samples")] == ["unreadable_field"]


@pytest.mark.parametrize(
    ("times", "message"), [(None, "no column prediction_time"), ([""] * 4, "empty in all 4 rows")]
)
def test_without_prediction_times_none_are_given(tmp_path, times, message):
    tables = hospital()
    for row, time in zip(tables["samples"], times or (), strict=times is not None):
        row["prediction_time"] = time
    with pytest.raises(InputError, match=message):
        passage(tmp_path, tables, prediction="given")


def test_a_bare_date_is_known_at_the_end_of_its_day(tmp_path):
    tables = hospital()
    tables["events"] = [
        event("s1", "2024-01-12", "lactate", 1, ""),
        event("s1", "2024-01-11", "lactate", 2, ""),
    ]
    found = passage(tmp_path, tables)
    assert found.valid("events")["available_time"].to_list() == [
        dt.datetime(2024, 1, 11, 23), dt.datetime(2024, 1, 12, 23),
    ]  # fmt: skip
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
    found = passage(tmp_path, tables)
    assert found.valid("notes")["text"].to_list() == ["First.", "First."]
    assert [rule for rule, _ in found.reasons("notes")] == ["duplicate_key", "duplicate_key"]


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
    passage(tmp_path, tables)
    known = pl.read_parquet(tmp_path / "out/inputs/timeseries.parquet")
    assert known.filter(pl.col("sample_id") == "s1-0")["code"].to_list() == ["heart_rate"]
    assert known.filter(pl.col("sample_id") == "s1-1")["code"].to_list() == [
        "glucose",
        "heart_rate",
        "lactate",
    ]


def test_a_given_split_by_name_or_number(tmp_path):
    tables = hospital()
    for row, split in zip(tables["samples"], ["train", 1, "Calibration", "3"], strict=True):
        row["split"] = split
    assert passage(tmp_path, tables).valid("samples")["split"].to_list() == [0, 1, 2, 3]


def test_ids_that_became_floats_are_read_as_they_were(tmp_path):
    tables = hospital()
    for table in tables.values():
        for row in table:
            row |= {
                key: row[key].lstrip("sp")
                for key in ("stay_id", "sample_id", "subject_id")
                if key in row
            }
    expected = passage(tmp_path / "whole", copy.deepcopy(tables)).inputs()
    for row in tables["samples"] + tables["events"]:
        row["stay_id"] += ".0"
    assert passage(tmp_path / "floats", tables).inputs() == expected


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
    found = passage(tmp_path, tables)
    assert found.valid("images")["path"].to_list() == [
        str(tmp_path / "hospital/pictures/a.jpg"), str(tmp_path / "b.jpg"),
    ]  # fmt: skip
    assert [rule for rule, _ in found.reasons("images")] == ["no_image_file"]


def test_reports_that_labels_come_from_are_left_out_for_all(tmp_path):
    tables = hospital()
    tables["notes"].append(note("s1", "other", "2024-01-11 12:00:00", "nursing", "Sleeps."))
    cohort = with_cohort()
    cohort["tasks"][0]["derived_from"] = ["Radiology"]
    found = passage(tmp_path, tables, cohort)
    assert found.valid("notes")["kind"].to_list() == ["nursing"]
    assert found.out_of_scope("notes") == {"a report that labels come from: death": 4}


def test_own_codes_are_used_and_where_declared_checked(tmp_path):
    cohort = with_cohort(signals=[{"code": "lactate", "unit": "mmol/L", "low": 0, "high": 4}])
    tables = hospital()
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "lactate", 3, "mg/dL"))
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "anything", 1e9, "furlong"))
    tables["events"].append(event("s1", "2024-01-11 11:00:00", "x" * 200, 1, ""))
    found = passage(tmp_path, tables, cohort)
    assert sorted(rule for rule, _ in found.reasons("events")) == [
        "above_plausible_range", "unknown_code", "unknown_unit",
    ]  # fmt: skip
    assert "anything" in found.valid("events")["code"].to_list()


def test_columns_of_numbers_and_of_categories(tmp_path):
    tables = hospital(40)
    for i, row in enumerate(tables["samples"]):
        row |= {"frailty": "often" if i == 0 else i / 10, "ward": i % 3, "floor": i % 4}
    cohort = with_cohort(
        features=["age", "frailty", "ward", "floor"], categories=["ward"], audit=["floor"]
    )
    found = passage(tmp_path, tables, cohort)
    kinds = found.valid("samples").schema
    assert (kinds["frailty"], kinds["ward"], kinds["floor"]) == (pl.Float64, pl.String, pl.Float64)
    assert found.reasons("samples") == [
        ("unreadable_field", "These fields could not be read: frailty: not a number (raw value “often”)"),
    ]  # fmt: skip


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
    found = passage(tmp_path, tables, suffix=suffix)
    given = pl.read_parquet(tmp_path / "out/inputs/given_vision.parquet")
    assert given["sample_id"].to_list() == ["s1", "s2", "s3"]
    assert given["vector"].to_list() == pl.Series(vectors[:3], dtype=pl.List(pl.Float32)).to_list()
    rules = [rule for rule, _ in found.reasons("embeddings")]
    assert sorted(rules) == ["another_length"] + ["unreadable_field"] * (
        2 if suffix == ".csv" else 0
    )


# Mistakes that stop -------------------------------------------------------------------------------


def rename(table: str, old: str, new: str):
    def change(tables, cohort):
        tables[table] = [
            {new if key == old else key: value for key, value in row.items()}
            for row in tables[table]
        ]

    return change


def put(table: str, **values: Any):
    def change(tables, cohort):
        for row in tables[table]:
            row |= values

    return change


def say(**values: Any):
    return lambda tables, cohort: cohort.update(values)


def task(number: int, **values: Any):
    return lambda tables, cohort: cohort["tasks"][number].update(values)


def twice(tables, cohort):
    tables["samples"] = [row | {"prediction_time": None} for row in tables["samples"]]
    tables["samples"].append(tables["samples"][0] | {"prediction_time": "2024-01-13 08:00:00"})


MISTAKES = [
    (rename("samples", "admit_time", "admittime"), r"samples\.csv lacks the column admit_time.*: rename admittime"),
    (rename("samples", "stay_id", "hadm_id"), "rename hadm_id to stay_id"),
    (rename("samples", "subject_id", "patient_id"), "rename patient_id to subject_id"),
    (rename("events", "time", "charttime"), "rename charttime to time"),
    (rename("labels", "sample_id", "stay_id"), r"labels\.csv lacks the column sample_id.*rename stay_id to sample_id"),
    (rename("events", "available_time", "storetime"), "rename storetime to available_time"),
    (rename("notes", "available_time", "availabel_time"), "rename availabel_time to available_time"),
    (rename("samples", "ward", "wards"), "cohort.yaml: samples.csv has no column ward; did you mean wards"),
    (rename("labels", "task", "Value"), "lacks the column task"),
    (rename("labels", "value", "result"), r"labels\.csv lacks the column value; .*: rename result to value"),
    (rename("events", "code", "test"), "rename test to code"),
    (rename("labels", "value", "befund"), "if its column 3 is that one, rename it to value"),
    (lambda tables, cohort: [rename("labels", *names)(tables, cohort) for names in (("task", "a"), ("value", "b"))],
     "lacks the column task, value; .*export the table again"),
    (say(timezone="Berlin"), "timezone 'Berlin' is not known; did you mean Europe/Berlin"),
    (say(timezone=None), "needs a line that says which time zone"),
    (say(features=["age", "discharge_location"]), "discharge_location can't be a feature: .*: take it out of features"),
    (say(features=["age", "admit_time"]), "admit_time can't be a feature"),
    (say(features=["age", "death"]), "death can't be a feature"),
    (say(features="age, sex"), r"features must be a list of column names: features: \[age, sex\]"),
    (say(features=["age", "heigth"]), "samples.csv has no column heigth; it has stay_id"),
    (say(audit=["subject_id"]), "subject_id can't be a feature or an audit column"),
    (say(categories=["floor"]), "floor is neither under features nor under audit"),
    (say(feature=["age"]), "there is no key feature; did you mean features"),
    (say(tasks=[]), "needs a list under the key 'tasks'"),
    (say(tasks=["death"]), "needs a list under the key 'tasks'"),
    (task(0, problem="binray"), "task death: problem 'binray' is not one of binary, .*; did you mean binary"),
    (task(0, clases=["a"]), "unknown key clases; did you mean classes"),
    (task(0, classes=["no", "yes"]), "a binary task takes no classes"),
    (task(2, classes=[True, False]), 'write "yes" and "no" in quotes'),
    (task(2, classes=["home"]), "needs at least two classes"),
    (task(0, name="dead or alive/2"), "is no name for a task"),
    (task(0, name="los"), "los is there more than once"),
    (task(0, name="deaths"), r"the task deaths has no label in labels\.csv; did you mean death"),
    (task(0, name="readmission"), r"the task readmission has no label in labels\.csv: add rows with readmission"),
    (task(0, derived_from=["radiolgy"]), "no note is of the kind 'radiolgy'; did you mean radiology"),
    (task(0, derived_from="radiology"), "derived_from must be a list"),
    (say(signals=[{"code": "glucose", "unit": "mg/dL"}]), "glucose has its unit and range in data_contracts/"),
    (say(signals=[{"code": "crp", "unit": "mg/L", "low": "none"}]), "signal crp: low and high must be numbers"),
    (put("samples", admit_time="31.01.2024 08:00"), "none of the 4 values of admit_time can be read as a time"),
    (put("events", time="01/31/2024"), "none of the 12 values of time can be read as a time"),
    (put("events", value="3,5"), "none of the 12 values of value can be read as a number: write 3.5, with a point"),
    (put("labels", value="died"), "no value of the task death can be read: a binary task takes 0 or 1"),
    (put("samples", discharge_time="2024-01-09 12:00:00", admit_time="2024-01-09 08:00:00"), "all 4 stays ended"),
    (twice, "1 stay_ids with more than one prediction time: add a column sample_id"),
    (lambda tables, cohort: tables.pop("labels"), r"has no labels\.csv .*: write it; its columns are sample_id, task"),
    (lambda tables, cohort: tables.update(label=tables.pop("labels")), r"is it label\.csv\? Save it under that name"),
    (lambda tables, cohort: tables.update(Samples=tables.pop("samples")), r"is it Samples\.csv\?"),
    (lambda tables, cohort: tables.update(evnts=tables.pop("events")), r"no events\.csv .*is it evnts\.csv\?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES]
)
def test_a_mistake_stops_with_what_to_change(tmp_path, change, message):
    tables = hospital()
    cohort = with_cohort()
    change(tables, cohort)
    with pytest.raises(InputError, match=message) as error:
        passage(
            tmp_path, tables, {key: value for key, value in cohort.items() if value is not None}
        )
    assert str(tmp_path / "hospital") in str(error.value), "says where"
    assert not any(value in str(error.value) for value in ("2024-01-11", "Chest", "31.01", "01/31"))


def test_a_folder_or_a_file_that_is_something_else(tmp_path):
    def message(folder: Path) -> str:
        with pytest.raises(InputError) as error:
            open_source("tables", folder).check()
        return str(error.value)

    assert "is not a folder: name the one that holds samples, labels and cohort.yaml" in message(
        tmp_path / "none"
    )
    root = write(tmp_path / "hospital", hospital())
    text = (root / "samples.csv").read_text()
    for content, says in [
        (text.replace(",", ";").encode(), "is separated by semicolons: save it with commas"),
        (text.replace(",", "\t").encode(), "is separated by tabs"),
        (
            text.encode("utf-16"),
            "is in UTF-16, not in UTF-8: convert it with `iconv -f UTF-16 -t UTF-8 ",
        ),
        (b"", "is empty"),
        (text.splitlines()[0].encode() + b"\n", "has a header but no rows"),
    ]:
        (root / "samples.csv").write_bytes(content)
        assert says in message(root)
    (root / "samples.csv").write_text("\ufeff" + text)  # what a spreadsheet calls CSV UTF-8
    open_source("tables", root).check()
    (root / "samples.parquet").write_bytes(b"")
    assert "keep one of them" in message(root)
    (root / "samples.parquet").unlink()
    for content, says in [
        ("timezone: UTC\n\tfeatures: [age]\n", r"(line 2)"),
        ("timezone: UTC\n\tfeatures: [age]\n", "indent with spaces, YAML takes no tabs"),
        ("just words", "needs lines like `key: value`"),
        ("features: [age\ntasks: 3", "is not valid YAML"),
    ]:
        (root / "cohort.yaml").write_text(content)
        assert says in message(root)
    (root / "cohort.yaml").unlink()
    assert "cohort.yaml is not there" in message(root)


def test_the_command_line_ends_with_one_paragraph(tmp_path):
    tables = hospital()
    rename("samples", "admit_time", "admittime")(tables, None)
    write(tmp_path / "hospital", tables)
    arguments = [
        "run",
        "--source",
        "tables",
        "--path",
        tmp_path / "hospital",
        "--out",
        tmp_path / "out",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "m3h_pipeline.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "rename admittime to admit_time" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


# Mistakes of single rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "change", "rule", "reason"),
    [
        ("samples", {"admit_time": "11.01.2024 08:00"}, "unreadable_field", "admit_time: not a date, write 2026-01-31"),
        ("samples", {"admit_time": "2024-03-31 02:30:00"}, "unreadable_field", "no such local time, the clocks"),
        ("samples", {"prediction_time": "2024-02-20 08:00:00"}, "prediction_after_discharge", "after the discharge"),
        ("samples", {"discharge_time": "2024-01-01 08:00:00"}, "discharge_before_admission", "before the admission"),
        ("samples", {"stay_id": "1.23457E+11"}, "unreadable_field", "a spreadsheet wrote it as 1.2E+10"),
        ("samples", {"stay_id": ""}, "missing_sample_id", "must be there"),
        ("samples", {"age": "old"}, "unreadable_field", "age: not a number"),
        ("samples", {"age": 200}, "implausible_age", "between 0 and 130"),
        ("samples", {"split": 7}, "unreadable_field", "split: not one of 0 (train), 1 (valid)"),
        ("events", {"time": "yesterday"}, "unreadable_field", "time: not a date"),
        ("events", {"available_time": "soon"}, "unreadable_field", "available_time: not a date"),
        ("events", {"value": "<0.5"}, "unreadable_field", "value: not a number"),
        ("events", {"value": 9999}, "above_plausible_range", "plausible range"),
        ("events", {"unit": "furlong"}, "unknown_unit", "signals.yaml"),
        ("events", {"stay_id": "nobody"}, "unknown_stay", "samples table"),
        ("events", {"available_time": "2024-01-01 08:00:00"}, "known_before_taken", "before it was taken"),
        ("notes", {"text": " "}, "empty_text", ""),
        ("notes", {"stay_id": "nobody"}, "unknown_stay", "samples table"),
        ("labels", {"value": "2"}, "class_beyond_last", ""),
        ("labels", {"value": "maybe"}, "unreadable_field", "value: not 0 or 1"),
        ("labels", {"task": "destination", "value": "abroad"}, "unreadable_field", "not one of the classes"),
        ("labels", {"task": "deathh"}, "unknown_task", "one of the declared tasks"),
        ("labels", {"sample_id": "nobody"}, "unknown_sample", "samples table"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_quarantined_with_its_reason_and_costs_no_other(
    tmp_path, table, change, rule, reason
):
    tables = hospital(40)
    for row in tables["samples"]:
        row |= {"prediction_time": None, **({"split": 0} if "split" in change else {})}
    counts = {name: len(rows) for name, rows in tables.items()}
    keys = {"samples": {"stay_id": "new", "subject_id": "new"}, "notes": {"note_id": "new"}}.get(
        table, {}
    )
    if table == "labels" and "task" not in change:
        tables["labels"].pop(0)
        counts["labels"] -= 1
    tables[table].append(hospital(1)[table][0] | {"prediction_time": None} | keys | change
                         if table == "samples" else hospital(1)[table][0] | keys | change)  # fmt: skip
    found = passage(tmp_path, tables)
    (broken,) = found.reasons(table)
    assert broken[0] == rule
    assert reason in broken[1]
    assert {name: split.kept for name, split in found.split.items()} == {**counts, "embeddings": 0}


def test_rows_that_are_broken_as_such(tmp_path):
    root = write(tmp_path / "hospital", hospital())
    lines = (root / "labels.csv").read_bytes().splitlines(keepends=True)
    (root / "labels.csv").write_bytes(b"".join([*lines, b"s1,death\n", b"s1,los,\xff\n"]))
    found = Passage(open_source("tables", root), tmp_path / "out")
    assert found.split["labels"].kept == len(lines) - 1
    assert sorted(reason.partition(": ")[2] for _, reason in found.reasons("labels")) == [
        "row: 2 fields, expected 3", "value: not UTF-8; value: not a number (raw value “\ufffd”)",
    ]  # fmt: skip


# The page -----------------------------------------------------------------------------------------


def blocks(page: Path = PAGE) -> dict[str, str]:
    """A page's blocks that are files, by the name behind their language."""
    found = re.findall(r"```\w+ (\S+)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize(
    ("page", "rows"), [(PAGE, [3, 3, 6]), (PAGE.parents[2] / "README.md", [1, 1, 1])]
)
def test_the_example_of_the_page_is_read_without_a_mistake(tmp_path, page, rows):
    root = tmp_path / "hospital"
    root.mkdir()
    for name, text in blocks(page).items():
        (root / name).write_text(text)
    found = Passage(open_source("tables", root), tmp_path / "out")
    assert not any(split.quarantined for split in found.split.values())
    assert [found.split[table].kept for table in ("samples", "events", "labels")] == rows
    assert set(found.facts["columns not read"]) == set()


def test_the_page_names_every_column(tmp_path):
    from m3h_pipeline.sources.tables.cohort_file import _KEYS
    from m3h_pipeline.sources.tables.formats import FORMATS

    page = PAGE.read_text()
    for table, columns in FORMATS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{table}`"))
        assert all(column in row for column in (*columns.needed, *columns.optional)), table
    assert all(f"`{key}`" in page for key in _KEYS)


def test_what_the_page_says_runs_to_a_report(tmp_path):
    for name, text in blocks().items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "make_hospital.py"], cwd=tmp_path, check=True)
    folder = tmp_path / "my-hospital"
    out = tmp_path / "my-run"
    (tmp_path / "cohort.yaml").rename(folder / "cohort.yaml")
    # The same run with little training: what is tested is the way of the data.
    out.mkdir()
    small = {
        "training": config.TrainingConfig(epochs=3, tree_rounds=5, bootstrap=100),
        "tim": config.TimConfig(tasks=2, seeds=1, groups=0, leave_out=0),
    }
    chosen = config.configure_run(out, "tables", folder, None, "2026-11-01")
    config.save(chosen.model_copy(update=small), out)
    (command,) = re.findall(r"^    \.venv/bin/m3h (run .*)$", PAGE.read_text(), flags=re.MULTILINE)
    result = subprocess.run(
        [sys.executable, "-m", "m3h_pipeline.cli.main", *command.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    latest = out / "latest"
    assert (latest / "report.html").stat().st_size > 10_000
    metrics = json.loads((latest / "metrics.json").read_text())
    assert [task["task"] for task in metrics["tasks"]] == [
        "death",
        "los",
        "destination",
        "phenotype",
    ]
    lineage = pl.read_parquet(latest / "lineage.parquet")
    rows = dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert rows == {"samples.csv": 240, "events.csv": 240 * 8, "labels.csv": 240 * 3}
    predictions = pl.read_parquet(latest / "predictions.parquet")
    assert predictions["sample_id"].n_unique() == 240


# Real patients ------------------------------------------------------------------------------------


def test_mimic_iv_written_as_own_tables_gives_the_same_inputs(mimic_demo, tmp_path):
    """The 100 real patients of the MIMIC-IV demo, by their own source and, converted, by this
    one.
    """
    expected = Passage(open_source("mimic-iv", mimic_demo), tmp_path / "mimic-iv")
    root = tmp_path / "hospital"
    root.mkdir()
    for table in ("samples", "events", "labels"):
        frame = expected.valid(table)
        frame.write_csv(root / f"{table}.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    specs = json.loads((expected.ingested / "tasks.json").read_text())
    cohort = json.loads((expected.ingested / "columns.json").read_text())
    tasks = [{key: value for key, value in spec.items() if value is not None} for spec in specs]
    (root / "cohort.yaml").write_text(yaml.safe_dump({"timezone": "UTC", **cohort, "tasks": tasks}))
    found = Passage(open_source("tables", root), tmp_path / "tables")
    assert found.inputs() == expected.inputs()
    assert (
        found.valid("labels")
        .sort("sample_id", "task")
        .equals(expected.valid("labels").sort("sample_id", "task"))
    )
