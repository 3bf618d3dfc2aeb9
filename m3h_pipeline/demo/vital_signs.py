"""Vital signs of the first hours of intensive care, as rows of MIMIC-IV's chartevents."""

from __future__ import annotations

import numpy as np
import polars as pl

from m3h_pipeline.demo.signals import Signal, draw_course, to_minutes
from m3h_pipeline.demo.stays import Array, Stays, to_times

_HOURS_CHARTED = 36

_VITALS = {
    "heart_rate": Signal(
        82,
        9.6,
        5,
        {
            "infection": 5,
            "breathing": 3,
            "bleeding": 4.1,
            "sepsis": 5.4,
            "atrial_fibrillation": 4.2,
            "venous_thromboembolism": 2.9,
            "gastrointestinal_bleeding": 2.2,
            "alcohol_use_disorder": 3,
            "pancreatitis": 2.2,
            "anxiety": 1.8,
            "mood": 1.8,
            "ischemic_heart_disease": -1.8,
            "hypothyroidism": -2.4,
            "age": -2,
        },
    ),
    "systolic": Signal(
        124,
        11,
        9,
        {
            "hypertension": 6.6,
            "vascular": 4.2,
            "renal": 3,
            "stroke": 4.3,
            "sepsis": -5.4,
            "infection": -3,
            "bleeding": -4.1,
            "gastrointestinal_bleeding": -1.8,
            "cirrhosis": -2.5,
            "heart_failure": -2.4,
            "age": 2,
        },
    ),
    "diastolic": Signal(
        66,
        6,
        6,
        {
            "hypertension": 2.4,
            "stroke": 1.4,
            "sepsis": -3,
            "infection": -2,
            "cirrhosis": -1.1,
            "age": -3,
            "valve_disease": -1.4,
        },
    ),
    "respiratory_rate": Signal(
        18,
        1.9,
        2.2,
        {
            "breathing": 1.8,
            "infection": 1,
            "congestion": 0.71,
            "respiratory_failure": 1.4,
            "pneumonia": 0.9,
            "sepsis": 0.78,
            "venous_thromboembolism": 0.58,
            "heart_failure": 0.36,
            "pancreatitis": 0.29,
        },
    ),
    "spo2": Signal(
        97.2,
        1.1,
        1.2,
        {
            "breathing": -0.92,
            "pulmonary": -0.41,
            "copd": -0.6,
            "respiratory_failure": -0.78,
            "pneumonia": -0.48,
            "congestion": -0.31,
            "pleural_effusion": -0.3,
            "venous_thromboembolism": -0.29,
            "obesity": -0.18,
        },
    ),
    "temperature": Signal(
        98.4,
        0.48,
        0.5,
        {"infection": 0.31, "sepsis": 0.36, "pneumonia": 0.24, "pancreatitis": 0.11},
    ),
    # How far consciousness is reduced: the three parts of the coma scale are cut from it.
    "stupor": Signal(
        -0.2,
        0.72,
        0.35,
        {
            "brain": 0.46,
            "stroke": 0.32,
            "encephalopathy": 0.48,
            "epilepsy": 0.22,
            "respiratory_failure": 0.36,
            "sepsis": 0.18,
            "alcohol_use_disorder": 0.12,
            "age": 0.1,
        },
    ),
}

# Item, label, unit, share of the hourly rounds at which it is charted.
_CHARTED = {
    "heart_rate": (220045, "Heart Rate", "bpm", 0.95),
    "systolic": (220179, "Non Invasive Blood Pressure systolic", "mmHg", 0.6),
    "diastolic": (220180, "Non Invasive Blood Pressure diastolic", "mmHg", 0.6),
    "mean": (220181, "Non Invasive Blood Pressure mean", "mmHg", 0.6),
    "respiratory_rate": (220210, "Respiratory Rate", "insp/min", 0.95),
    "spo2": (220277, "O2 saturation pulseoxymetry", "%", 0.92),
    "temperature": (223761, "Temperature Fahrenheit", "°F", 0.25),
    "verbal": (223900, "GCS - Verbal Response", "UNK", 0.25),
    "eye": (220739, "GCS - Eye Opening", "UNK", 0.25),
    "motor": (223901, "GCS - Motor Response", "UNK", 0.25),
}

_CATEGORIES = {
    "spo2": "Respiratory",
    "respiratory_rate": "Respiratory",
    "verbal": "Neurological",
    "eye": "Neurological",
    "motor": "Neurological",
}


def list_vital_sign_items() -> list[tuple[int, str, str, str, str, str | None, str]]:
    """Rows of d_items: id, label, abbreviation, table, category, unit, type."""
    rows = []
    for name, (item, label, unit, _) in _CHARTED.items():
        category = _CATEGORIES.get(name, "Routine Vital Signs")
        is_score = unit == "UNK"
        unit_name = None if is_score else unit
        kind = "Text" if is_score else "Numeric"
        rows.append((item, label, label, "chartevents", category, unit_name, kind))
    return rows


def draw_vital_signs(rng: np.random.Generator, stays: Stays, icu_stay_id: Array) -> pl.DataFrame:
    """Rows of chartevents: hourly rounds in the first hours of intensive care."""
    in_icu = np.flatnonzero(~np.isnat(stays.icu_in))
    rounds = np.minimum((stays.icu_out - stays.icu_in)[in_icu].astype(int) // 3600, _HOURS_CHARTED)
    stay = np.repeat(in_icu, rounds)
    hour = np.arange(len(stay)) - np.repeat(np.cumsum(rounds) - rounds, rounds)
    late = rng.integers(0, 25, len(stay)) * (rng.random(len(stay)) < 0.5)
    minutes = (60 * hour + late).astype("timedelta64[m]")
    time = stays.icu_in[stay].astype("datetime64[m]") + minutes + np.timedelta64(1, "m")

    values = {name: draw_course(rng, signal, stays, stay, hour) for name, signal in _VITALS.items()}
    # An irregular pulse differs from count to count.
    values["heart_rate"] += (
        3.5 * rng.standard_normal(len(stay)) * (stays.driver("atrial_fibrillation") > 0)[stay]
    )
    values["spo2"] = np.minimum(values["spo2"], 100)
    mean = (values["systolic"] + 2 * values["diastolic"]) / 3
    values["mean"] = mean + 2 * rng.standard_normal(len(stay))
    stupor = values.pop("stupor")
    values["eye"] = np.clip(4.3 - 1.0 * np.maximum(stupor, 0), 1, 4)
    values["verbal"] = np.clip(5.3 - 1.6 * np.maximum(stupor - 0.1, 0), 1, 5)
    values["motor"] = np.clip(6.3 - 0.9 * np.maximum(stupor - 0.6, 0), 1, 6)

    frames = []
    pressures, scores = rng.random((2, len(stay)))
    together = {"mmHg": pressures, "UNK": scores}
    for name, (item, _, unit, share) in _CHARTED.items():
        # Parts of one measurement are charted together.
        draws = together[unit] if unit in together else rng.random(len(stay))
        rows = np.flatnonzero(draws < share)
        decimals = 1 if name == "temperature" else 0
        number = np.maximum(np.round(values[name][rows], decimals), 1)
        delay = rng.exponential(20, len(rows))
        delay += (rng.random(len(rows)) < 0.04) * rng.uniform(120, 600, len(rows))
        frames.append(
            pl.DataFrame(
                {
                    "stay": stay[rows],
                    "charttime": to_times(time[rows]),
                    "storetime": to_times(time[rows] + to_minutes(delay)),
                    "itemid": np.full(len(rows), item),
                    "valuenum": number,
                    "valueuom": pl.Series([unit]).new_from_index(0, len(rows)),
                    "warning": (rng.random(len(rows)) < 0.01).astype(int),
                }
            )
        )
    rows = pl.concat(frames).sort("stay", "charttime", "itemid")
    index = rows["stay"].to_numpy()
    return rows.with_columns(
        subject_id=stays.subject_id[stays.patient[index]],
        hadm_id=stays.hadm_id[index],
        stay_id=icu_stay_id[index],
        caregiver_id=pl.Series(rng.integers(1000, 99999, len(rows))),
        value=pl.col("valuenum").cast(pl.String),
    )
