"""MIMIC-IV rows that are wrong in one way each, and good ones beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mimic_folder import Tables, admission, diagnosis, image, measurement, note

STAYS = 24
LABS = "hosp/labevents"
VITALS = "icu/chartevents"
NOTES = "note/radiology"
CXR = "cxr/mimic-cxr-2.0.0-metadata"
IN = "2150-03-01 08:00:00"
OUT = "2150-03-06 08:00:00"
TAKEN = "2150-03-01 10:00:00"


def lab(**others: Any) -> dict[str, object]:
    """A good creatinine of the first stay, with these differences."""
    row = measurement(100, 1000, TAKEN, 50912, 1.1, "mg/dL", stored="2150-03-01 11:00:00")
    return {**row, **others}


def stay(hadm: object, **others: Any) -> dict[str, object]:
    """A stay of a patient of whom there is nothing else: pictures are placed by time, which two
    stays would share.
    """
    return {**admission(198, hadm, IN, OUT, place="HOME"), **others}


def text(key: str, content: str | None, **others: Any) -> dict[str, object]:
    return {**note(key, 100, 1000, TAKEN, None, content), **others}


@dataclass(frozen=True)
class Wrong:
    """A wrong row: its kind, the file it stands in, the row (or its bytes), and how quarantine must
    name it.
    """

    kind: str
    file: str
    row: dict[str, object] | bytes
    rule: str
    reason: str
    table: str = field(default="")

    def __post_init__(self) -> None:
        tables = {
            "hosp/admissions": "samples",
            "hosp/diagnoses_icd": "labels",
            NOTES: "notes",
            CXR: "images",
        }
        object.__setattr__(self, "table", self.table or tables.get(self.file, "events"))


UNREADABLE = "unreadable_field"
WRONG = [
    # Stays
    Wrong(
        "no such day",
        "hosp/admissions",
        stay(1, admittime="2150-02-30 08:00:00"),
        UNREADABLE,
        "admittime: not a",
    ),
    Wrong(
        "no date",
        "hosp/admissions",
        stay(2, dischtime="next week"),
        UNREADABLE,
        "dischtime: not a date",
    ),
    Wrong(
        "discharge before admission",
        "hosp/admissions",
        stay(3, admittime=OUT, dischtime=IN),
        "discharge_before_admission",
        "must not lie before the admission",
    ),
    Wrong(
        "death before admission",
        "hosp/admissions",
        stay(4, deathtime="2150-01-01 08:00:00"),
        UNREADABLE,
        "deathtime: before admittime",
    ),
    Wrong(
        "death before birth",
        "hosp/admissions",
        stay(
            5,
            admittime="2050-03-01 08:00:00",
            dischtime="2050-03-06 08:00:00",
            deathtime="2050-03-06 08:00:00",
        ),
        "implausible_age",
        "before birth",
    ),
    Wrong(
        "a stay of the year 2999",
        "hosp/admissions",
        stay(6, subject_id=199, admittime="2999-03-01 08:00:00", dischtime="2999-03-06 08:00:00"),
        "implausible_admission_year",
        "between the years 1900 and 2300",
    ),
    Wrong(
        "the same stay twice",
        "hosp/admissions",
        stay(1000, subject_id=100),
        "duplicate_key",
        "the first is kept",
    ),
    Wrong(
        "a patient whom nobody knows",
        "hosp/admissions",
        stay(7, subject_id=555),
        UNREADABLE,
        "subject_id: not in patients",
    ),
    Wrong(
        "an absurdly long key",
        "hosp/admissions",
        stay("9" * 300),
        "malformed_sample_id",
        "1 to 128 characters",
    ),
    Wrong("no key", "hosp/admissions", stay(None), "missing_sample_id", "must be there"),
    # Measurements
    Wrong(
        "text in a number", LABS, lab(valuenum="HEMOLYZED"), UNREADABLE, "valuenum: not a number"
    ),
    Wrong("infinity", LABS, lab(valuenum="inf"), UNREADABLE, "valuenum: not a number"),
    Wrong(
        "an impossible value",
        LABS,
        lab(value=1390, valuenum=1390),
        "above_plausible_range",
        "plausible range",
    ),
    Wrong(
        "a negative value",
        LABS,
        lab(value=-3, valuenum=-3),
        "below_plausible_range",
        "plausible range",
    ),
    Wrong(
        "an unknown unit", LABS, lab(valueuom="furlongs"), "unknown_unit", "unit must be the one"
    ),
    Wrong("an orphan key", LABS, lab(hadm_id=424242), "unknown_stay", "one of the samples"),
    Wrong(
        "another patient's stay",
        LABS,
        lab(subject_id=101),
        UNREADABLE,
        "subject_id: not the patient of the stay",
    ),
    Wrong(
        "neither stay nor time",
        LABS,
        lab(hadm_id=None, charttime=None),
        "missing_stay_id",
        "must be there",
    ),
    Wrong("the same row twice", LABS, lab(), "duplicate_key", "the first is kept"),
    Wrong(
        "long before the stay",
        LABS,
        lab(charttime="2150-01-01 10:00:00", storetime=None),
        "taken_before_admission",
        "more than 2 days before",
    ),
    Wrong(
        "long after the stay",
        LABS,
        lab(charttime="2155-01-01 10:00:00", storetime=None),
        "taken_after_discharge",
        "more than 2 days after",
    ),
    Wrong(
        "the future of a patient still in",
        LABS,
        lab(subject_id=101, hadm_id=1001, charttime="2190-01-01 10:00:00", storetime=None),
        "taken_after_discharge",
        "2 years after the admission",
    ),
    Wrong(
        "too few fields", VITALS, b"100,1000,2150-03-01\n", UNREADABLE, "row: 3 fields, expected 9"
    ),
    Wrong(
        "too many fields",
        VITALS,
        b"100,1000," + b"x," * 20 + b"\n",
        UNREADABLE,
        "row: 23 fields, expected 9",
    ),
    Wrong(
        "a quote that is never closed",
        VITALS,
        b'100,1000,"2150-03-01 10:00:00,,220045,80,80,bpm,\n',
        UNREADABLE,
        "row: a quote or line end is out of place",
    ),
    Wrong(
        "NUL characters",
        VITALS,
        b"100,1000,2150-03-01 12:00:00,,220045,80,8\x00\x000,bpm,\n",
        UNREADABLE,
        "valuenum: not a number",
    ),
    Wrong(
        "a row of a million characters",
        VITALS,
        b"100,1000,2150-03-01 12:00:00,,220045,80,80,bpm," + b"x" * 1_500_000 + b"\n",
        UNREADABLE,
        "row: too long",
    ),
    # Notes
    Wrong(
        "broken UTF-8",
        NOTES,
        b"n-utf8,100,1000,2150-03-01 10:00:00,,Temp\xff 38 \xfeC\n",
        UNREADABLE,
        "text: not UTF-8",
    ),
    Wrong("no text", NOTES, text("n-empty", " "), "empty_text", "more than blanks"),
    Wrong(
        "a note without a key", NOTES, text("", "Clear lungs."), "missing_note_id", "must be there"
    ),
    Wrong(
        "a later note of one key",
        NOTES,
        text("n-0", "Clear.", storetime="2150-03-01 23:00:00"),
        "duplicate_key",
        "the first is kept",
    ),
    # Images
    Wrong(
        "a picture without a file",
        CXR,
        image("nofile", 100, 50, 21500301, 100000),
        "no_image_file",
        "file",
    ),
    Wrong(
        "a picture without a byte",
        CXR,
        image("empty", 100, 50, 21500301, 110000),
        "empty_image_file",
        "file",
    ),
    Wrong(
        "a picture of no day",
        CXR,
        image("d-day", 100, 50, 21500230, 100000),
        UNREADABLE,
        "not a date",
    ),
    # Labels
    Wrong(
        "a code of no ICD",
        "hosp/diagnoses_icd",
        diagnosis(1000, "4280", 11),
        UNREADABLE,
        "icd_version: not 9",
    ),
    Wrong(
        "a code of no stay",
        "hosp/diagnoses_icd",
        diagnosis(424242, "4280", 9),
        UNREADABLE,
        "hadm_id: not in admissions",
    ),
    Wrong("no code", "hosp/diagnoses_icd", diagnosis(1000, "", 9), UNREADABLE, "icd_code: empty"),
    Wrong(
        "an unknown place",
        "hosp/admissions",
        stay(8, discharge_location="THE MOON"),
        UNREADABLE,
        "discharge_location: not a known place",
        "labels",
    ),
]


def good() -> Tables:
    """Stays of a patient each; the second is still in hospital."""
    ids = range(STAYS)
    end = {1: None}
    people = [
        {"subject_id": 100 + i, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None}
        for i in ids
    ]
    people += [
        {"subject_id": 198, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None},
        {"subject_id": 199, "gender": "F", "anchor_age": 60, "anchor_year": 2999, "dod": None},
    ]
    return {
        "hosp/patients": people,
        "hosp/admissions": [
            admission(100 + i, 1000 + i, IN, end.get(i, OUT), place="HOME") for i in ids
        ],
        "hosp/diagnoses_icd": [diagnosis(1000 + i, "4280", 9) for i in ids],
        LABS: [{**lab(), "subject_id": 100 + i, "hadm_id": 1000 + i} for i in ids],
        VITALS: [measurement(100 + i, 1000 + i, TAKEN, 220045, 80, "bpm") for i in ids],
        NOTES: [note(f"n-{i}", 100 + i, 1000 + i, TAKEN, None, "No effusion.") for i in ids],
        CXR: [image(f"d{i}", 100 + i, 50, 21500301, 93012.5) for i in ids],
    }
