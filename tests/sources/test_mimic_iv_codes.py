"""Sets of codes of MIMIC-IV's stays: what they say, and when it was available."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import mimic_folder
import polars as pl
import pytest
from canonical_tables import count_reasons, extract_mimic, when
from mimic_folder import culture, write

DAY = dt.timedelta(days=1)


def hospital() -> mimic_folder.Tables:
    """The small hospital with codes and earlier stays."""
    tables = mimic_folder.hospital() | mimic_folder.codes() | mimic_folder.emergency_department()
    for name, rows in mimic_folder.earlier_stays().items():
        tables[name] = [*tables[name], *rows]
    return tables


def of_stay(tables: dict[str, pl.DataFrame], stay: str, kind: str) -> list[tuple]:
    """Code, time, available_time and value of a stay's codes of a kind."""
    rows = tables["codes"].filter((pl.col("stay_id") == stay) & (pl.col("kind") == kind))
    return rows.select("code", "time", "available_time", "value").rows()


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, pl.DataFrame]:
    return extract_mimic(write(tmp_path_factory.mktemp("codes") / "h", hospital()))[0]


def test_earlier_stays_are_known_at_their_end_and_their_codes_a_week_later(tables):
    first = when("2149-01-01 08:00")
    second = when("2149-12-06 08:00")
    assert of_stay(tables, "21", "earlier_stay") == [
        ("rehab", first, first, 31),
        ("home", second, second, 5),
    ]
    assert of_stay(tables, "21", "earlier_diagnosis") == [
        ("icd10/I/I50/I5020", first, first + 7 * DAY, None),
        ("icd9/42/428/4280", second, second + 7 * DAY, None),
    ]
    assert of_stay(tables, "21", "earlier_procedure") == [
        ("icd9/39/396/3961", second, second + 7 * DAY, None)
    ]


def test_the_codes_of_a_stay_itself_are_nowhere(tables):
    kinds = ["earlier_diagnosis", "earlier_procedure", "earlier_stay"]
    history = tables["codes"].filter(pl.col("kind").is_in(kinds))
    stays = tables["samples"].select("stay_id", "admit_time")
    joined = history.join(stays, on="stay_id")
    assert len(joined) == len(history) > 0
    assert (joined["time"] <= joined["admit_time"]).all()
    # Stays 23 and 24 of one patient overlap: neither is earlier.
    assert not history["stay_id"].is_in(["23", "24"]).any()


def test_orders_and_what_was_given(tables):
    ordered = of_stay(tables, "21", "drug_ordered")
    assert [(code, available) for code, _, available, _ in ordered] == [
        ("insulin/insulin (regular)", when("2150-01-01 12:00")),
        ("furosemide", when("2150-01-03 12:00")),
    ]
    time = when("2150-01-01 13:00")
    available = when("2150-01-01 13:05")
    assert of_stay(tables, "21", "drug_given") == [("insulin", time, available, None)]


def test_service_and_units(tables):
    assert [row[0] for row in of_stay(tables, "21", "service")] == ["cmed"]
    assert [row[0] for row in of_stay(tables, "21", "unit")] == [
        "coronary/coronary care unit (ccu)"
    ]


def test_a_culture_counts_once_however_many_drugs_were_tried_on_it(tables):
    taken = of_stay(tables, "21", "culture_taken")
    assert [(code, available) for code, _, available, _ in taken] == [
        ("blood/blood culture", when("2150-01-01 09:00")),
        ("urine/urine culture", when("2150-01-01 10:00")),
    ]
    result = when("2150-01-03 09:00")
    grown = of_stay(tables, "21", "culture_grown")
    assert [(code, available) for code, _, available, _ in grown] == [
        ("staph/staph aureus", result)
    ]
    resisted = of_stay(tables, "21", "culture_resistant")
    assert [(code, available) for code, _, available, _ in resisted] == [
        ("gentamicin", result),
        ("oxacillin", result),
    ]


def test_a_result_without_a_time_is_no_input(tmp_path: Path):
    data = hospital()
    data["hosp/microbiologyevents"] = [culture("2150-01-01 09:00:00", drug="OXACILLIN")]
    tables, _ = extract_mimic(write(tmp_path / "h", data))
    kinds = tables["codes"].filter(pl.col("kind").str.starts_with("culture"))["kind"]
    assert kinds.to_list() == ["culture_taken"]


def test_a_bare_date_is_known_at_its_end(tmp_path: Path):
    data = hospital()
    row = culture("2150-01-01 09:00:00") | {"charttime": None, "chartdate": "2150-01-01"}
    row |= {"storedate": "2150-01-04"}
    data["hosp/microbiologyevents"] = [row]
    tables, _ = extract_mimic(write(tmp_path / "h", data))
    assert [available for _, _, available, _ in of_stay(tables, "21", "culture_taken")] == [
        when("2150-01-02 00:00")
    ]
    assert [available for _, _, available, _ in of_stay(tables, "21", "culture_grown")] == [
        when("2150-01-05 00:00")
    ]


def test_the_visit_to_the_emergency_department_before_the_stay(tables):
    arrived = when("2150-01-01 02:00")
    assert of_stay(tables, "21", "ed_arrival") == [("ambulance", arrived, arrived, None)]
    triage = of_stay(tables, "21", "ed_triage")
    assert {(code, value) for code, _, _, value in triage} == {
        *(("temperature", 99.1), ("heartrate", 104), ("resprate", 20), ("o2sat", 97)),
        *(("sbp", 150), ("pain", 8), ("acuity", 2)),
    }
    assert {available for _, _, available, _ in triage} == {when("2150-01-01 03:00")}
    complaints = of_stay(tables, "21", "ed_complaint")
    assert [code for code, *_ in complaints] == ["chest pain", "dyspnea"]
    signs = of_stay(tables, "21", "ed_vital_sign")
    assert ("heartrate", when("2150-01-01 05:00"), when("2150-01-01 05:00"), 104) in signs
    assert [code for code, *_ in of_stay(tables, "21", "drug_at_home")] == [
        "beta blockers cardiac selective/metoprolol tartrate"
    ]
    assert [code for code, *_ in of_stay(tables, "21", "ed_drug")] == ["aspirin"]
    reasons = count_reasons(tables["lineage"], "ed/triage")
    assert reasons == {None: 1, "a visit that edstays does not have": 1}
    outside = "no hadm_id, and taken outside any stay"
    assert count_reasons(tables["lineage"], "ed/edstays") == {None: 1, outside: 1}


def test_measurements_of_the_year_before_a_stay(tables):
    available = when("2149-06-02 00:00")
    assert sorted(of_stay(tables, "21", "measured_before")) == [
        ("blood pressure diastolic", available, available, 80),
        ("blood pressure systolic", available, available, 140),
        ("bmi (kg m2)", available, available, 31.5),
    ]
    # The stay that follows within the year has them too.
    assert count_reasons(tables["lineage"], "hosp/omr") == {
        None: 2,
        "no stay of its patient within the year after it": 1,
    }


def test_every_row_of_the_tables_of_codes_is_accounted_for(tables):
    data = hospital()
    counts = tables["lineage"].group_by("file").agg(pl.col("rows").sum())
    assert dict(counts.iter_rows()) == {f"{name}.csv.gz": len(rows) for name, rows in data.items()}
    assert count_reasons(tables["lineage"], "hosp/emar") == {None: 1, "not given": 1}
    assert count_reasons(tables["lineage"], "hosp/transfers") == {None: 1, "no unit is named": 1}
    assert count_reasons(tables["lineage"], "hosp/prescriptions") == {
        None: 2,
        "what a drug is dissolved in": 1,
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_format_gives_the_same_codes(tables, tmp_path, suffix):
    others, _ = extract_mimic(write(tmp_path / "other", hospital(), suffix))
    assert others["codes"].drop("source_file").equals(tables["codes"].drop("source_file"))


@pytest.mark.parametrize(
    ("table", "changes", "problem"),
    [
        ("hosp/prescriptions", {"starttime": "soon"}, "starttime: not a date"),
        ("hosp/emar", {"storetime": "later"}, "storetime: not a date"),
        ("hosp/services", {"transfertime": "x"}, "transfertime: not a date"),
        ("hosp/transfers", {"intime": "x"}, "intime: not a date"),
        ("hosp/microbiologyevents", {"storetime": "x"}, "storetime: not a date"),
        ("ed/pyxis", {"charttime": "x"}, "charttime: not a date"),
        ("ed/medrecon", {"subject_id": 12}, "subject_id: not the patient of the stay"),
        ("hosp/prescriptions", {"subject_id": 12}, "subject_id: not the patient of the stay"),
    ],
)
def test_what_cannot_be_read_goes_to_quarantine(tmp_path, table, changes, problem):
    data = hospital()
    data[table] = [dict(row) for row in data[table]]
    data[table][0] |= changes
    tables, _ = extract_mimic(write(tmp_path / "h", data))
    wrong = tables["codes"].filter(pl.col("parse_errors").is_not_null())
    assert {text.split(" (raw")[0] for text in wrong["parse_errors"]} == {problem}
    assert set(wrong["source_file"]) == {f"{table}.csv.gz"}
