"""A hospital's own tables: what each mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from passage import Passage
from tables_folder import hospital, write
from tables_passage import change_cohort, read_hospital

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError


def rename(table: str, old: str, new: str):
    def change(tables, cohort):
        tables[table] = [rename_key(row, old, new) for row in tables[table]]

    return change


def rename_key(row: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in row.items()}


def put(table: str, **values: Any):
    def change(tables, cohort):
        for row in tables[table]:
            row |= values

    return change


def set_cohort(**values: Any):
    return lambda tables, cohort: cohort.update(values)


def set_task(number: int, **values: Any):
    return lambda tables, cohort: cohort["tasks"][number].update(values)


def twice(tables, cohort):
    tables["samples"] = [row | {"prediction_time": None} for row in tables["samples"]]
    tables["samples"].append(tables["samples"][0] | {"prediction_time": "2024-01-13 08:00:00"})


MISTAKES = [
    (
        rename("samples", "admit_time", "admittime"),
        r"samples\.csv lacks the column admit_time.*: rename admittime",
    ),
    (rename("samples", "stay_id", "hadm_id"), "rename hadm_id to stay_id"),
    (rename("samples", "subject_id", "patient_id"), "rename patient_id to subject_id"),
    (rename("events", "time", "charttime"), "rename charttime to time"),
    (
        rename("labels", "sample_id", "stay_id"),
        r"labels\.csv lacks the column sample_id.*rename stay_id to sample_id",
    ),
    (rename("events", "available_time", "storetime"), "rename storetime to available_time"),
    (
        rename("notes", "available_time", "availabel_time"),
        "rename availabel_time to available_time",
    ),
    (
        rename("samples", "ward", "wards"),
        "cohort.yaml: samples.csv has no column ward; did you mean wards",
    ),
    (rename("labels", "task", "Value"), "lacks the column task"),
    (
        rename("labels", "value", "result"),
        r"labels\.csv lacks the column value; .*: rename result to value",
    ),
    (rename("events", "code", "test"), "rename test to code"),
    (rename("labels", "value", "befund"), "if its column 3 is that one, rename it to value"),
    (
        lambda tables, cohort: [
            rename("labels", *names)(tables, cohort) for names in (("task", "a"), ("value", "b"))
        ],
        "lacks the column task, value; .*export the table again",
    ),
    (set_cohort(timezone="Berlin"), "timezone 'Berlin' is not known; did you mean Europe/Berlin"),
    (set_cohort(timezone=None), "needs a line that says which time zone"),
    (
        set_cohort(features=["age", "discharge_location"]),
        "discharge_location can't be a feature: .*: take it out of features",
    ),
    (set_cohort(features=["age", "admit_time"]), "admit_time can't be a feature"),
    (set_cohort(features=["age", "death"]), "death can't be a feature"),
    (
        set_cohort(features="age, sex"),
        r"features must be a list of column names: features: \[age, sex\]",
    ),
    (set_cohort(features=["age", "heigth"]), "samples.csv has no column heigth; it has stay_id"),
    (set_cohort(audit=["subject_id"]), "subject_id can't be a feature or an audit column"),
    (set_cohort(categories=["floor"]), "floor is neither under features nor under audit"),
    (set_cohort(feature=["age"]), "there is no key feature; did you mean features"),
    (set_cohort(tasks=[]), "needs a list under the key 'tasks'"),
    (set_cohort(tasks=["death"]), "needs a list under the key 'tasks'"),
    (
        set_task(0, problem="binray"),
        "task death: problem 'binray' is not one of binary, .*; did you mean binary",
    ),
    (set_task(0, clases=["a"]), "unknown key clases; did you mean classes"),
    (set_task(0, classes=["no", "yes"]), "a binary task takes no classes"),
    (set_task(2, classes=[True, False]), 'write "yes" and "no" in quotes'),
    (set_task(2, classes=["home"]), "needs at least two classes"),
    (set_task(0, name="dead or alive/2"), "is no name for a task"),
    (set_task(0, name="los"), "los is there more than once"),
    (
        set_task(0, name="deaths"),
        r"the task deaths has no label in labels\.csv; did you mean death",
    ),
    (
        set_task(0, name="readmission"),
        r"the task readmission has no label in labels\.csv: add rows with readmission",
    ),
    (
        set_task(0, derived_from=["radiolgy"]),
        "no note is of the kind 'radiolgy'; did you mean radiology",
    ),
    (set_task(0, derived_from="radiology"), "derived_from must be a list"),
    (
        set_cohort(signals=[{"code": "glucose", "unit": "mg/dL"}]),
        "glucose has its unit and range in data_contracts/",
    ),
    (
        set_cohort(signals=[{"code": "crp", "unit": "mg/L", "low": "none"}]),
        "signal crp: low and high must be numbers",
    ),
    (
        put("samples", admit_time="31.01.2024 08:00"),
        "none of the 4 values of admit_time can be read as a time",
    ),
    (put("events", time="01/31/2024"), "none of the 12 values of time can be read as a time"),
    (
        put("events", value="3,5"),
        "none of the 12 values of value can be read as a number: write 3.5, with a point",
    ),
    (
        put("labels", value="died"),
        "no value of the task death can be read: a binary task takes 0 or 1",
    ),
    (
        put("samples", discharge_time="2024-01-09 12:00:00", admit_time="2024-01-09 08:00:00"),
        "all 4 stays ended",
    ),
    (twice, "1 stay_ids with more than one prediction time: add a column sample_id"),
    (
        lambda tables, cohort: tables.pop("labels"),
        r"has no labels\.csv .*: write it; its columns are sample_id, task",
    ),
    (
        lambda tables, cohort: tables.update(label=tables.pop("labels")),
        r"is it label\.csv\? Save it under that name",
    ),
    (lambda tables, cohort: tables.update(Samples=tables.pop("samples")), r"is it Samples\.csv\?"),
    (
        lambda tables, cohort: tables.update(evnts=tables.pop("events")),
        r"no events\.csv .*is it evnts\.csv\?",
    ),
]


@pytest.mark.parametrize(
    ("change", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES]
)
def test_a_mistake_stops_with_what_to_change(tmp_path, change, message):
    tables = hospital()
    cohort = change_cohort()
    change(tables, cohort)
    with pytest.raises(InputError, match=message) as error:
        read_hospital(
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
        (
            "samples",
            {"admit_time": "11.01.2024 08:00"},
            "unreadable_field",
            "admit_time: not a date, write 2026-01-31",
        ),
        (
            "samples",
            {"admit_time": "2024-03-31 02:30:00"},
            "unreadable_field",
            "no such local time, the clocks",
        ),
        (
            "samples",
            {"prediction_time": "2024-02-20 08:00:00"},
            "prediction_after_discharge",
            "after the discharge",
        ),
        (
            "samples",
            {"discharge_time": "2024-01-01 08:00:00"},
            "discharge_before_admission",
            "before the admission",
        ),
        (
            "samples",
            {"stay_id": "1.23457E+11"},
            "unreadable_field",
            "a spreadsheet wrote it as 1.2E+10",
        ),
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
        (
            "events",
            {"available_time": "2024-01-01 08:00:00"},
            "known_before_taken",
            "before it was taken",
        ),
        ("notes", {"text": " "}, "empty_text", ""),
        ("notes", {"stay_id": "nobody"}, "unknown_stay", "samples table"),
        ("labels", {"value": "2"}, "class_beyond_last", ""),
        ("labels", {"value": "maybe"}, "unreadable_field", "value: not 0 or 1"),
        (
            "labels",
            {"task": "destination", "value": "abroad"},
            "unreadable_field",
            "not one of the classes",
        ),
        ("labels", {"task": "deathh"}, "unknown_task", "one of the declared tasks"),
        ("labels", {"sample_id": "nobody"}, "unknown_sample", "samples table"),
    ],
)
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
    tables[table].append(
        hospital(1)[table][0] | {"prediction_time": None} | keys | change
        if table == "samples"
        else hospital(1)[table][0] | keys | change
    )
    result = read_hospital(tmp_path, tables)
    (broken,) = result.reasons(table)
    assert broken[0] == rule
    assert reason in broken[1]
    assert {name: split.kept for name, split in result.split.items()} == {**counts, "embeddings": 0}


def test_rows_that_are_broken_as_such(tmp_path):
    root = write(tmp_path / "hospital", hospital())
    lines = (root / "labels.csv").read_bytes().splitlines(keepends=True)
    (root / "labels.csv").write_bytes(b"".join([*lines, b"s1,death\n", b"s1,los,\xff\n"]))
    result = Passage(open_source("tables", root), tmp_path / "out")
    assert result.split["labels"].kept == len(lines) - 1
    assert sorted(reason.partition(": ")[2] for _, reason in result.reasons("labels")) == [
        "row: 2 fields, expected 3",
        "value: not UTF-8; value: not a number (raw value “\ufffd”)",
    ]
