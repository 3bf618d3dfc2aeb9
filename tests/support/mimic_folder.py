"""A hospital of a few rows in MIMIC-IV's layout, for tests to change and to write in any format."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import polars as pl

_TEXT = 'No effusion,\n"clear".'
Tables = dict[str, list[dict[str, object]]]


def hospital() -> Tables:
    """Five stays of three patients, one of them over before 24 h; two notes and two images.

    Stay 21 runs 2150-01-01 08:00 to 2150-01-06 08:00; 22 ends after 10 h; 23 and 24 of patient 12
    overlap; 25 dies.
    """
    return {
        "hosp/patients": [
            {"subject_id": 11, "gender": "F", "anchor_age": 60, "anchor_year": 2148, "dod": None},
            {"subject_id": 12, "gender": "M", "anchor_age": 40, "anchor_year": 2150, "dod": None},
            {
                "subject_id": 13,
                "gender": "M",
                "anchor_age": 80,
                "anchor_year": 2150,
                "dod": "2150-05-04",
            },
        ],
        "hosp/admissions": [
            admission(11, 21, "2150-01-01 08:00:00", "2150-01-06 08:00:00", place="HOME"),
            admission(11, 22, "2150-02-01 08:00:00", "2150-02-01 18:00:00", place="HOME"),
            admission(12, 23, "2150-03-01 00:00:00", "2150-03-05 00:00:00", place="REHAB"),
            admission(12, 24, "2150-03-04 00:00:00", "2150-03-08 00:00:00", place="HOSPICE"),
            admission(
                13,
                25,
                "2150-05-01 00:00:00",
                "2150-05-04 00:00:00",
                place="DIED",
                died="2150-05-04 12:00:00",
            ),
        ],
        "hosp/diagnoses_icd": [
            diagnosis(21, "4280", 9),
            diagnosis(21, "V707", 9),
            diagnosis(22, "I50", 10),
            diagnosis(23, "I5020", 10),
            diagnosis(24, "Z00", 10),
            diagnosis(25, "N17.9", 10),
        ],
        "icu/chartevents": [
            measurement(11, 21, "2150-01-01 10:00:00", 220045, 80, "bpm"),
            measurement(11, 21, "2150-01-01 11:00:00", 220210, 20, "insp/min"),
            measurement(11, 21, "2150-01-03 10:00:00", 220045, 90, "bpm"),
            measurement(11, 21, "2150-01-01 10:00:00", 223761, 98, "°F"),
        ],
        "hosp/labevents": [
            measurement(
                11, 21, "2150-01-01 09:00:00", 50931, 100, "mg/dL", stored="2150-01-01 10:30:00"
            ),
            measurement(11, None, "2150-01-02 09:00:00", 50931, 110, "mg/dL"),
        ],
        "icu/procedureevents": [
            procedure(11, 21, "2150-01-01 12:00:00", "2150-01-01 12:01:00", 225400)
        ],
        "note/radiology": [
            note("11-RR-1", 11, 21, "2150-01-01 20:00:00", "2150-01-01 21:00:00", _TEXT)
        ],
        "note/discharge": [note("11-DS-1", 11, 21, "2150-01-06 00:00:00", None, "Sent home.")],
        "cxr/mimic-cxr-2.0.0-metadata": [
            image("d1", 11, 51, 21500101, 93012.5),
            image("d2", 11, 52, 21490101, 93012.5),
        ],
    }


def codes() -> Tables:
    """The tables of codes of the same hospital, with one of stay 20 (see `earlier_stays`)."""
    return {
        "hosp/procedures_icd": [
            {"subject_id": 11, "hadm_id": 20, "seq_num": 1, "icd_code": "3961", "icd_version": 9},
            {"subject_id": 11, "hadm_id": 21, "seq_num": 1, "icd_code": "3615", "icd_version": 9},
        ],
        "hosp/prescriptions": [
            prescription("2150-01-01 12:00:00", "Insulin (Regular)"),
            prescription("2150-01-03 12:00:00", "Furosemide"),
            prescription("2150-01-01 12:00:00", "0.9% Sodium Chloride", drug_type="BASE"),
        ],
        "hosp/emar": [
            given("2150-01-01 13:00:00", "Insulin", stored="2150-01-01 13:05:00"),
            given("2150-01-01 14:00:00", "Insulin", event="Not Given"),
        ],
        "hosp/services": [
            {
                "subject_id": 11,
                "hadm_id": 21,
                "transfertime": "2150-01-01 08:10:00",
                "prev_service": None,
                "curr_service": "CMED",
            }
        ],
        "hosp/transfers": [
            transfer("2150-01-01 08:00:00", "Coronary Care Unit (CCU)", "admit"),
            transfer("2150-01-06 08:00:00", None, "discharge"),
        ],
        "hosp/microbiologyevents": [
            culture("2150-01-01 09:00:00", stored="2150-01-03 09:00:00", drug="OXACILLIN"),
            culture("2150-01-01 09:00:00", stored="2150-01-03 09:00:00", drug="GENTAMICIN"),
            culture(
                "2150-01-01 10:00:00",
                stored="2150-01-01 20:00:00",
                organism=None,
                test="URINE CULTURE",
            ),
        ],
        "hosp/omr": [
            measured("2149-06-01", "BMI (kg/m2)", "31.5"),
            measured("2149-06-01", "Blood Pressure", "140/80"),
            measured("2140-06-01", "BMI (kg/m2)", "25"),
        ],
    }


def emergency_department() -> Tables:
    """The visit of patient 11 before stay 21, and one that led to no stay."""
    signs = {"temperature": 99.1, "heartrate": 104, "resprate": 20, "o2sat": 97}
    signs |= {"sbp": 150, "dbp": "unable"}
    return {
        "ed/edstays": [
            {
                "subject_id": 11,
                "hadm_id": 21,
                "stay_id": 91,
                "intime": "2150-01-01 02:00:00",
                "outtime": "2150-01-01 08:00:00",
                "arrival_transport": "AMBULANCE",
            },
            {
                "subject_id": 12,
                "hadm_id": None,
                "stay_id": 92,
                "intime": "2149-01-01 02:00:00",
                "outtime": "2149-01-01 08:00:00",
                "arrival_transport": "WALK IN",
            },
        ],
        "ed/triage": [
            {"subject_id": 11, "stay_id": 91}
            | signs
            | {"pain": 8, "acuity": 2, "chiefcomplaint": "Chest pain, DYSPNEA"},
            {"subject_id": 11, "stay_id": 99}
            | signs
            | {"pain": 1, "acuity": 3, "chiefcomplaint": "FALL"},
        ],
        "ed/vitalsign": [
            {"subject_id": 11, "stay_id": 91, "charttime": "2150-01-01 05:00:00"} | signs
        ],
        "ed/medrecon": [
            {
                "subject_id": 11,
                "stay_id": 91,
                "charttime": "2150-01-01 03:00:00",
                "name": "metoprolol tartrate",
                "etcdescription": "Beta Blockers Cardiac Selective",
            }
        ],
        "ed/pyxis": [
            {
                "subject_id": 11,
                "stay_id": 91,
                "charttime": "2150-01-01 04:00:00",
                "name": "Aspirin",
            }
        ],
    }


def earlier_stays() -> Tables:
    """Two stays of patient 11 before those of `hospital`, with a diagnosis each."""
    return {
        "hosp/admissions": [
            admission(11, 19, "2148-12-01 08:00:00", "2149-01-01 08:00:00", place="REHAB"),
            admission(11, 20, "2149-12-01 08:00:00", "2149-12-06 08:00:00", place="HOME"),
        ],
        "hosp/diagnoses_icd": [diagnosis(19, "I5020", 10), diagnosis(20, "4280", 9)],
    }


def prescription(start, drug, drug_type="MAIN") -> dict[str, object]:
    return {
        "subject_id": 11,
        "hadm_id": 21,
        "starttime": start,
        "stoptime": None,
        "drug_type": drug_type,
        "drug": drug,
    }


def given(time, drug, event="Administered", stored=None) -> dict[str, object]:
    return {
        "subject_id": 11,
        "hadm_id": 21,
        "charttime": time,
        "storetime": stored,
        "medication": drug,
        "event_txt": event,
    }


def transfer(time, unit, kind) -> dict[str, object]:
    return {"subject_id": 11, "hadm_id": 21, "eventtype": kind, "careunit": unit, "intime": time}


def culture(
    time, stored=None, organism="STAPH AUREUS", drug=None, result="R", test="BLOOD CULTURE"
) -> dict[str, object]:
    return {
        "subject_id": 11,
        "hadm_id": 21,
        "chartdate": time[:10],
        "charttime": time,
        "spec_type_desc": "BLOOD",
        "storedate": None,
        "storetime": stored,
        "test_name": test,
        "org_name": organism,
        "ab_name": drug,
        "interpretation": result if drug else None,
    }


def measured(date, name, value) -> dict[str, object]:
    return {
        "subject_id": 11,
        "chartdate": date,
        "seq_num": 1,
        "result_name": name,
        "result_value": value,
    }


def admission(
    subject, hadm, admitted, discharged, place=None, died=None, **others
) -> dict[str, object]:
    return {
        "subject_id": subject,
        "hadm_id": hadm,
        "admittime": admitted,
        "dischtime": discharged,
        "deathtime": died,
        "admission_type": "EW EMER.",
        "discharge_location": place,
        "insurance": "Medicare",
        "language": "ENGLISH",
        "marital_status": "SINGLE",
        "race": "WHITE",
        "hospital_expire_flag": int(died is not None),
        **others,
    }


def diagnosis(hadm, code, version) -> dict[str, object]:
    return {
        "subject_id": 1,
        "hadm_id": hadm,
        "seq_num": 1,
        "icd_code": code,
        "icd_version": version,
    }


def measurement(subject, hadm, time, item, value, unit, stored=None, **others) -> dict[str, object]:
    return {
        "subject_id": subject,
        "hadm_id": hadm,
        "charttime": time,
        "storetime": stored,
        "itemid": item,
        "value": value,
        "valuenum": value,
        "valueuom": unit,
        "comments": None,
        **others,
    }


def procedure(subject, hadm, start, end, item, stored=None) -> dict[str, object]:
    return {
        "subject_id": subject,
        "hadm_id": hadm,
        "starttime": start,
        "endtime": end,
        "storetime": stored,
        "itemid": item,
    }


def infusion(subject, hadm, start, end, item, rate, unit, stored=None) -> dict[str, object]:
    return procedure(subject, hadm, start, end, item, stored) | {"rate": rate, "rateuom": unit}


def item(itemid, label, category="Vital Signs", kind="Numeric", table="chartevents"):
    return {
        "itemid": itemid,
        "label": label,
        "category": category,
        "param_type": kind,
        "linksto": table,
    }


def lab_item(itemid, label, fluid="Blood", category="Chemistry") -> dict[str, object]:
    return {"itemid": itemid, "label": label, "fluid": fluid, "category": category}


def note(key, subject, hadm, time, stored, text) -> dict[str, object]:
    return {
        "note_id": key,
        "subject_id": subject,
        "hadm_id": hadm,
        "charttime": time,
        "storetime": stored,
        "text": text,
    }


def image(key, subject, study, date, time) -> dict[str, object]:
    return {
        "dicom_id": key,
        "subject_id": subject,
        "study_id": study,
        "ViewPosition": "PA",
        "StudyDate": date,
        "StudyTime": time,
    }


def write(root: Path, tables: Tables, suffix: str = ".csv.gz") -> Path:
    """Write the tables; csv and csv.gz hold text, Parquet holds numbers where the rows do."""
    for name, rows in tables.items():
        file = root / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".parquet":
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(file)
        else:
            write_bytes(file, as_csv(rows).encode())
    return root


def as_csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file, compressed where its name says so."""
    file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
