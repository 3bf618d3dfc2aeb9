"""Lines, tubes, dialysis and other procedures, as rows of MIMIC-IV's procedureevents."""

from __future__ import annotations

import numpy as np
import polars as pl

from m3h_pipeline.demo.signals import to_minutes
from m3h_pipeline.demo.stays import Array, Stays, logistic, to_times

_PROCEDURES = {
    "foley": (
        229351,
        "Foley Catheter",
        "Tubes",
        "GI/GU",
        -0.5,
        {"severity": 0.5, "age": 0.2, "urinary_tract_infection": 0.6, "prostatic_hyperplasia": 0.7},
    ),
    "picc": (
        224264,
        "PICC Line",
        "Invasive Lines",
        "Access Lines - Invasive",
        -2.3,
        {"infection": 0.5, "sepsis": 0.8},
    ),
    "intubation": (
        224385,
        "Intubation",
        "Intubation/Extubation",
        "1-Intubation/Extubation",
        -3.0,
        {
            "breathing": 0.4,
            "respiratory_failure": 1.6,
            "stroke": 0.9,
            "sepsis": 0.5,
            "epilepsy": 0.5,
        },
    ),
    "peritoneal": (
        225805,
        "Peritoneal Dialysis",
        "Peritoneal Dialysis",
        "Dialysis",
        -6.0,
        {"renal": 0.6, "chronic_kidney_disease": 1.2},
    ),
    "bronchoscopy": (
        225400,
        "Bronchoscopy",
        "Procedures",
        "Procedures",
        -4.2,
        {"pneumonia": 0.9, "respiratory_failure": 1.0, "cancer": 0.4},
    ),
    "eeg": (
        221223,
        "EEG",
        "Procedures",
        "4-Procedures",
        -4.0,
        {"brain": 0.6, "epilepsy": 1.5, "encephalopathy": 0.8, "stroke": 0.6},
    ),
    "crrt": (
        225802,
        "Dialysis - CRRT",
        "Dialysis",
        "Dialysis",
        -5.6,
        {"kidney": 0.8, "acute_kidney_injury": 1.3, "sepsis": 0.8},
    ),
    "dialysis_catheter": (
        224270,
        "Dialysis Catheter",
        "Invasive Lines",
        "Access Lines - Invasive",
        -4.6,
        {"renal": 0.6, "chronic_kidney_disease": 1.0, "acute_kidney_injury": 0.9},
    ),
    "chest_tube": (
        227712,
        "Chest Tube Removed",
        "Procedures",
        "4-Procedures",
        -4.2,
        {"pleural_effusion": 1.5, "congestion": 0.3},
    ),
    "hemodialysis": (
        225441,
        "Hemodialysis",
        "Procedures",
        "4-Procedures",
        -4.6,
        {"renal": 0.8, "chronic_kidney_disease": 1.4, "acute_kidney_injury": 0.4},
    ),
}

# Lines, tubes and dialysis last; the others are points in time.
_LASTING = ("foley", "picc", "peritoneal", "crrt", "dialysis_catheter")


def list_procedure_items() -> list[tuple[int, str, str, str, str, str | None, str]]:
    """Rows of d_items: id, label, abbreviation, table, category, unit, type."""
    return [
        (item, label, label, "procedureevents", group, None, "Processes")
        for item, label, _, group, *_ in _PROCEDURES.values()
    ]


def draw_procedures(rng: np.random.Generator, stays: Stays, icu_stay_id: Array) -> pl.DataFrame:
    """Rows of procedureevents, of stays in intensive care."""
    frames = []
    for name, (item, _, order, _, intercept, effects) in _PROCEDURES.items():
        is_done = rng.random(len(stays)) < logistic(intercept + stays.score(effects))
        stay = np.flatnonzero(is_done & ~np.isnat(stays.icu_in))
        room = (stays.icu_out - stays.icu_in)[stay].astype(int) // 60
        delay = rng.exponential(600 if name == "foley" else 1000, len(stay))
        begins = stays.icu_in[stay] + to_minutes(np.minimum(delay, room - 1))
        begins = begins.astype("datetime64[m]").astype("datetime64[s]")
        lasts = (
            rng.integers(300, 4000, len(stay))
            if name in _LASTING
            else np.ones(len(stay), dtype=int)
        )
        ends = begins + to_minutes(lasts)
        # A record that lasts is saved once more when it ends.
        stored = (ends if name in _LASTING else begins) + to_minutes(rng.exponential(60, len(stay)))
        size = len(stay)
        kind = pl.Series(["ContinuousProcess" if name in _LASTING else "Task"])
        frames.append(
            pl.DataFrame(
                {
                    "subject_id": stays.subject_id[stays.patient[stay]],
                    "hadm_id": stays.hadm_id[stay],
                    "stay_id": icu_stay_id[stay],
                    "caregiver_id": rng.integers(1000, 99999, size),
                    "starttime": to_times(begins),
                    "endtime": to_times(ends),
                    "storetime": to_times(stored),
                    "itemid": np.full(size, item),
                    "value": lasts,
                    "order": rng.integers(10_000, 9_999_999, size),
                    "valueuom": pl.Series(
                        ["min" if name in _LASTING else None], dtype=pl.String
                    ).new_from_index(0, size),
                    "ordercategoryname": pl.Series([order]).new_from_index(0, size),
                    "ordercategorydescription": kind.new_from_index(0, size),
                    "patientweight": np.round(
                        rng.normal(80, 15, size) + 18 * stays.driver("obesity")[stay], 1
                    ),
                    "isopenbag": np.full(size, int(name in _LASTING)),
                    "ORIGINALRATE": np.full(size, int(name in _LASTING)),
                }
            )
        )
    rows = pl.concat(frames).sort("subject_id", "starttime", "itemid")
    return rows.with_columns(
        location=pl.lit(None, pl.String),
        locationcategory=pl.lit(None, pl.String),
        orderid="order",
        linkorderid="order",
        continueinnextdept=pl.lit(0),
        statusdescription=pl.lit("FinishedRunning"),
        ORIGINALAMOUNT="value",
    )
