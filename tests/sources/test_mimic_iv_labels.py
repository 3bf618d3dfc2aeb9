"""Labels of the stays of MIMIC-IV's layout, from diagnoses and from the admissions' own columns."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from canonical_tables import ENDED, count_reasons, extract_mimic
from mimic_folder import admission, diagnosis, hospital, write


def labels_of(
    tmp_path: Path, admissions=None, diagnoses=None
) -> tuple[dict, pl.DataFrame, pl.DataFrame]:
    data = hospital()
    data["hosp/admissions"] = admissions or data["hosp/admissions"]
    data["hosp/diagnoses_icd"] = diagnoses or data["hosp/diagnoses_icd"]
    tables, _ = extract_mimic(write(tmp_path / "h", data))
    return label_values(tables["labels"]), tables["labels"], tables["lineage"]


def label_values(labels: pl.DataFrame) -> dict[tuple[str, str], float | None]:
    return {
        (sample, task): value
        for sample, task, value in labels.select("sample_id", "task", "value").iter_rows()
    }


def test_diagnosis_labels(good):
    labels = good[1]["labels"]
    lineage = good[1]["lineage"]
    values = label_values(labels)
    assert values["21", "heart_failure"] == 1.0
    assert values["23", "heart_failure"] == 1.0
    assert values["24", "heart_failure"] == 0.0
    # A dot in a code is no other code.
    assert values["25", "acute_kidney_injury"] == 1.0
    assert not any(sample == "22" for sample, _ in values)
    assert ("21", "phenotype") not in values
    assert set(labels.filter(pl.col("task") == "heart_failure")["source_file"]) == {
        "hosp/diagnoses_icd.csv.gz"
    }
    assert count_reasons(lineage, "hosp/diagnoses_icd") == {None: 5, ENDED: 1}


def test_the_version_of_a_code_counts(tmp_path):
    # E11 is diabetes in ICD-10; in ICD-9 there is an external cause of that name.
    values, *_ = labels_of(
        tmp_path, diagnoses=[diagnosis(21, "E110", 9), diagnosis(23, "E110", 10)]
    )
    assert (values["21", "diabetes"], values["23", "diabetes"]) == (0.0, 1.0)


def test_a_stay_without_codes_has_no_diagnosis_labels(tmp_path):
    values, *_ = labels_of(tmp_path, diagnoses=[diagnosis(21, "4280", 9)])
    assert ("23", "heart_failure") not in values
    assert ("23", "length_of_stay") in values


def test_wrong_diagnoses_decide_nothing_and_go_on(tmp_path):
    values, labels, lineage = labels_of(
        tmp_path,
        diagnoses=[
            diagnosis(21, "4280", 9),
            diagnosis(23, "4280", 11),
            diagnosis(99, "4280", 9),
            diagnosis(24, "", 9),
            diagnosis(None, "4280", 9),
        ],
    )
    assert ("23", "heart_failure") not in values
    wrong = labels.filter(pl.col("task").is_null()).sort("source_row")
    assert wrong.select("sample_id", "source_row", "parse_errors").rows() == [
        ("23", 2, "icd_version: not 9 or 10"),
        ("99", 3, "hadm_id: not in admissions"),
        ("24", 4, "icd_code: empty"),
        (None, 5, "hadm_id: empty"),
    ]
    assert count_reasons(lineage, "hosp/diagnoses_icd") == {None: 5}


def test_operations_labels(good):
    values = label_values(good[1]["labels"])
    assert values["21", "length_of_stay"] == 5.0
    # To the death, not to the midnight before.
    assert values["25", "length_of_stay"] == 3.5
    assert (values["21", "death_in_hospital"], values["25", "death_in_hospital"]) == (0.0, 1.0)
    classes = ["home", "home_with_services", "facility", "other", "died"]
    places = [classes[int(values[stay, "discharge_location"])] for stay in ("21", "23", "24", "25")]
    assert places == ["home", "facility", "other", "died"]


def test_unknown_and_contradictory_outcomes(tmp_path):
    start = "2150-01-01 08:00:00"
    end = "2150-01-06 08:00:00"
    values, labels, _ = labels_of(
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
    assert values["31", "death_in_hospital"] == 0.0
    assert ("31", "discharge_location") not in values
    assert ("35", "death_in_hospital") not in values
    # A stay that goes on has no labels at all.
    assert not any(sample == "36" for sample, _ in values)


def test_a_subset_of_the_tasks(tmp_path):
    tables, _ = extract_mimic(
        write(tmp_path / "h", hospital()), tasks=["gout", "death_in_hospital", "phenotype"]
    )
    assert set(tables["labels"]["task"]) == {"gout", "death_in_hospital"}
    names = [
        task["name"] for task in json.loads((tmp_path / "h-ingested" / "tasks.json").read_text())
    ]
    assert names == ["gout", "death_in_hospital", "phenotype"]
