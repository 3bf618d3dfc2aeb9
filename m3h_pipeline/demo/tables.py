"""The tables' headers, as in MIMIC-IV 3.1, MIMIC-IV-Note 2.2 and MIMIC-CXR-JPG 2.1, and how rows
become files.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from m3h_pipeline.demo.images import SIZE
from m3h_pipeline.demo.procedures import list_procedure_items
from m3h_pipeline.demo.stays import Array, Stays, logistic, scatter_ids, to_times
from m3h_pipeline.demo.vital_signs import list_vital_sign_items

PICTURES = "cxr/mimic-cxr-2.0.0-metadata"
_COLUMNS = {
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": (
        "subject_id hadm_id admittime dischtime deathtime admission_type "
        "admit_provider_id admission_location discharge_location insurance language "
        "marital_status race edregtime edouttime hospital_expire_flag"
    ),
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "hosp/d_icd_diagnoses": "icd_code icd_version long_title",
    "hosp/labevents": (
        "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime "
        "storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority "
        "comments"
    ),
    "hosp/d_labitems": "itemid label fluid category",
    "hosp/prescriptions": (
        "subject_id hadm_id pharmacy_id poe_id poe_seq order_provider_id starttime stoptime "
        "drug_type drug formulary_drug_cd gsn ndc prod_strength form_rx dose_val_rx dose_unit_rx "
        "form_val_disp form_unit_disp doses_per_24_hrs route"
    ),
    "hosp/services": "subject_id hadm_id transfertime prev_service curr_service",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/chartevents": (
        "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
        "valuenum valueuom warning"
    ),
    "icu/procedureevents": (
        "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid "
        "value valueuom location locationcategory orderid linkorderid ordercategoryname "
        "ordercategorydescription patientweight isopenbag continueinnextdept "
        "statusdescription ORIGINALAMOUNT ORIGINALRATE"
    ),
    "icu/d_items": (
        "itemid label abbreviation linksto category unitname param_type lownormalvalue "
        "highnormalvalue"
    ),
    "note/radiology": "note_id subject_id hadm_id note_type note_seq charttime storetime text",
    "note/discharge": "note_id subject_id hadm_id note_type note_seq charttime storetime text",
    PICTURES: (
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition "
        "Rows Columns StudyDate StudyTime ProcedureCodeSequence_CodeMeaning "
        "ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"
    ),
}
HEADERS = {name: columns.split() for name, columns in _COLUMNS.items()}
_CARE_UNITS = (
    "Medical Intensive Care Unit (MICU)",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)",
    "Surgical Intensive Care Unit (SICU)",
    "Coronary Care Unit (CCU)",
    "Trauma SICU (TSICU)",
    "Neuro Surgical Intensive Care Unit (Neuro SICU)",
)
_ARRIVALS = {
    "SURGICAL SAME DAY ADMISSION": ("PHYSICIAN REFERRAL",),
    "ELECTIVE": ("PHYSICIAN REFERRAL", "CLINIC REFERRAL"),
    "URGENT": ("TRANSFER FROM HOSPITAL", "TRANSFER FROM HOSPITAL", "PHYSICIAN REFERRAL"),
    "DIRECT EMER.": ("PHYSICIAN REFERRAL", "CLINIC REFERRAL"),
}
_EMERGENCY_ROOM = ("EMERGENCY ROOM", "EMERGENCY ROOM", "EMERGENCY ROOM", "WALK-IN/SELF REFERRAL")
# Stands in a text for a byte that is no UTF-8.
BROKEN_BYTE = "\ue000"


class Table:
    """A growing ``csv.gz`` whose bytes depend on its rows alone."""

    def __init__(self, file: Path, header: Sequence[str]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._header = header
        self._stream = file.open("wb")
        # No time and no name in the header.
        self._gzip = gzip.GzipFile("", "wb", compresslevel=2, fileobj=self._stream, mtime=0)
        self._gzip.write((",".join(header) + "\n").encode())

    def write(self, rows: pl.DataFrame) -> None:
        """Append rows; columns that the header lacks are left out."""
        text = rows.select(self._header).write_csv(
            include_header=False, datetime_format="%Y-%m-%d %H:%M:%S"
        )
        self._gzip.write(text.encode().replace(BROKEN_BYTE.encode(), b"\xff"))

    def close(self) -> None:
        self._gzip.close()
        self._stream.close()


def make_patients(stays: Stays) -> pl.DataFrame:
    """Rows of patients."""
    return pl.DataFrame(
        {
            "subject_id": stays.subject_id,
            "gender": np.where(stays.is_male, "M", "F"),
            "anchor_age": stays.anchor_age,
            "anchor_year": stays.anchor_year,
            "anchor_year_group": [f"{year} - {year + 2}" for year in stays.year_group],
            "dod": pl.Series(stays.died_on),
        }
    )


def draw_admissions(rng: np.random.Generator, stays: Stays) -> pl.DataFrame:
    """Rows of admissions."""
    n = len(stays)
    arrivals = [_ARRIVALS.get(kind, _EMERGENCY_ROOM) for kind in stays.admission_type]
    location = [
        places[int(u * len(places))] for places, u in zip(arrivals, rng.random(n), strict=True)
    ]
    by_emergency_room = np.array([places is _EMERGENCY_ROOM for places in arrivals])
    registered = stays.admit - (60 * rng.integers(60, 600, n)).astype("timedelta64[s]")
    left = stays.admit + (60 * rng.integers(10, 200, n)).astype("timedelta64[s]")
    nothing = np.datetime64("NaT")
    doctors = rng.integers(0, 36**4, n)
    frame = pl.DataFrame(
        {
            "subject_id": stays.subject_id[stays.patient],
            "hadm_id": stays.hadm_id,
            "admittime": to_times(stays.admit),
            "dischtime": to_times(stays.discharge),
            "deathtime": to_times(np.where(stays.died, stays.discharge, nothing)),
            "admission_type": stays.admission_type,
            "admit_provider_id": [f"P{np.base_repr(d, 36):0>4}" for d in doctors],
            "admission_location": location,
            "discharge_location": stays.place,
            "insurance": stays.insurance,
            "language": stays.language[stays.patient],
            "marital_status": stays.marital_status,
            "race": stays.race[stays.patient],
            "edregtime": to_times(np.where(by_emergency_room, registered, nothing)),
            "edouttime": to_times(np.where(by_emergency_room, left, nothing)),
            "hospital_expire_flag": stays.died.astype(int),
        }
    )
    return frame.with_columns(pl.col("discharge_location", "marital_status").replace("", None))


def draw_icu_stays(rng: np.random.Generator, stays: Stays, icu_stay_id: Array) -> pl.DataFrame:
    """Rows of icustays."""
    stay = np.flatnonzero(~np.isnat(stays.icu_in))
    unit = np.array(_CARE_UNITS)[
        rng.choice(len(_CARE_UNITS), len(stay), p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.1])
    ]
    begin = stays.icu_in[stay]
    end = stays.icu_out[stay]
    return pl.DataFrame(
        {
            "subject_id": stays.subject_id[stays.patient[stay]],
            "hadm_id": stays.hadm_id[stay],
            "stay_id": icu_stay_id[stay],
            "first_careunit": unit,
            "last_careunit": unit,
            "intime": to_times(begin),
            "outtime": to_times(end),
            "los": (end - begin).astype(float) / 86_400,
        }
    )


def draw_studies(rng: np.random.Generator, stays: Stays, first: int, seed: int) -> pl.DataFrame:
    """Chest studies: ``stay`` (its index), ``time``, ``study_id``, ``is_ap``, ``has_lateral``,
    ``has_pictures``.

    Not every study's pictures are in the archive; its report is in the notes all the same.
    """
    n = len(stays)
    need = stays.score({"severity": 0.3, "breathing": 0.3, "infection": 0.2, "congestion": 0.2})
    begin = np.column_stack([rng.exponential(5, n) - 0.4, rng.uniform(20, 70, n)])
    taken = np.column_stack(
        [
            rng.random(n) < logistic(1.4 + need),
            (rng.random(n) < logistic(-1.5 + need)) & ~np.isnat(stays.icu_in),
        ]
    ) & (begin < stays.hours[:, None] - 0.5)
    stay, which = np.nonzero(taken)
    k = len(stay)
    is_ap = rng.random(k) < logistic(0.8 * stays.driver("severity")[stay] + which - 0.3)
    return pl.DataFrame(
        {
            "stay": stay,
            "time": to_times(
                stays.admit[stay] + (3600 * begin[stay, which]).astype(int).astype("timedelta64[s]")
            ),
            "study_id": 50_000_000 + scatter_ids(first + np.arange(k), seed),
            "is_ap": is_ap,
            "has_lateral": ~is_ap & (rng.random(k) < 0.3),
            "has_pictures": rng.random(k) < 0.8,
        }
    )


def draw_picture_rows(
    rng: np.random.Generator, stays: Stays, studies: pl.DataFrame
) -> pl.DataFrame:
    """Rows of the metadata of the chest films, with ``stay`` and the ``path`` of each picture."""
    of_study = (
        pl.when("is_ap").then(pl.lit(["AP"])).when("has_lateral").then(pl.lit(["PA", "LATERAL"]))
    )
    rows = studies.filter("has_pictures").with_columns(
        ViewPosition=of_study.otherwise(pl.lit(["PA"]))
    )
    rows = rows.explode("ViewPosition", empty_as_null=True)
    words = rng.integers(0, 2**32, (len(rows), 5))
    subject = stays.subject_id[stays.patient[rows["stay"].to_numpy()]]
    portable = pl.lit("CHEST (PORTABLE AP)")
    upright = pl.lit("CHEST (PA AND LAT)")
    orientation = pl.when("is_ap").then(pl.lit("Recumbent")).otherwise(pl.lit("Erect"))
    words_of_view = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}
    return rows.with_columns(
        dicom_id=pl.Series(map(_format_dicom_id, words), dtype=pl.String),
        subject_id=subject,
        PerformedProcedureStepDescription=pl.when("is_ap").then(portable).otherwise(upright),
        Rows=pl.lit(SIZE),
        Columns=pl.lit(SIZE),
        StudyDate=pl.col("time").dt.strftime("%Y%m%d"),
        StudyTime=pl.col("time").dt.strftime("%H%M%S.000"),
        ProcedureCodeSequence_CodeMeaning=pl.when("is_ap").then(portable).otherwise(upright),
        ViewCodeSequence_CodeMeaning=pl.col("ViewPosition").replace_strict(words_of_view),
        PatientOrientationCodeSequence_CodeMeaning=orientation,
    ).with_columns(
        path=pl.format(
            "cxr/files/p{}/p{}/s{}/{}.jpg",
            pl.col("subject_id").cast(pl.String).str.head(2),
            "subject_id",
            "study_id",
            "dicom_id",
        )
    )


def _format_dicom_id(words: Array) -> str:
    return "-".join(f"{word:08x}" for word in words)


def list_chart_items() -> pl.DataFrame:
    """Rows of d_items."""
    columns = ["itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type"]
    rows = [*list_vital_sign_items(), *list_procedure_items()]
    empty = [pl.lit(None, pl.Float64).alias(name) for name in ("lownormalvalue", "highnormalvalue")]
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(empty)
