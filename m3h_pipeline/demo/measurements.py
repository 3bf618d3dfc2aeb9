"""Vital signs, laboratory results and procedures of the stays, as rows of MIMIC-IV's tables.

A signal is its usual value plus what the stay's drivers add, plus a difference that stays with the
stay, plus noise of each measurement. Signals overlap: each is moved by several drivers, and each
driver moves several signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from m3h_pipeline.demo.story import Array, Stays, as_times, logistic

_HOURS_CHARTED = 36
_DAYS_OF_LABS = 5


@dataclass(frozen=True)
class Signal:
    """``usual`` value, spread from stay to stay and from measurement to measurement, what each
    driver adds.

    Where ``is_ratio``, spreads and effects are of the logarithm.
    """

    usual: float
    between: float
    within: float
    effects: dict[str, float]
    is_ratio: bool = False


_VITALS = {
    "heart_rate": Signal(82, 9.6, 5, {
        "infection": 5, "breathing": 3, "bleeding": 4.1, "sepsis": 5.4, "atrial_fibrillation": 4.2,
        "venous_thromboembolism": 2.9, "gastrointestinal_bleeding": 2.2, "alcohol_use_disorder": 3, "pancreatitis": 2.2,
        "anxiety": 1.8, "mood": 1.8, "ischemic_heart_disease": -1.8, "hypothyroidism": -2.4, "age": -2}),
    "systolic": Signal(124, 11, 9, {
        "hypertension": 6.6, "vascular": 4.2, "renal": 3, "stroke": 4.3, "sepsis": -5.4, "infection": -3,
        "bleeding": -4.1, "gastrointestinal_bleeding": -1.8, "cirrhosis": -2.5, "heart_failure": -2.4, "age": 2}),
    "diastolic": Signal(66, 6, 6, {
        "hypertension": 2.4, "stroke": 1.4, "sepsis": -3, "infection": -2, "cirrhosis": -1.1, "age": -3,
        "valve_disease": -1.4}),
    "respiratory_rate": Signal(18, 1.9, 2.2, {
        "breathing": 1.8, "infection": 1, "congestion": 0.71, "respiratory_failure": 1.4, "pneumonia": 0.9,
        "sepsis": 0.78, "venous_thromboembolism": 0.58, "heart_failure": 0.36, "pancreatitis": 0.29}),
    "spo2": Signal(97.2, 1.1, 1.2, {
        "breathing": -0.92, "pulmonary": -0.41, "copd": -0.6, "respiratory_failure": -0.78, "pneumonia": -0.48,
        "congestion": -0.31, "pleural_effusion": -0.3, "venous_thromboembolism": -0.29, "obesity": -0.18}),
    "temperature": Signal(98.4, 0.48, 0.5, {
        "infection": 0.31, "sepsis": 0.36, "pneumonia": 0.24, "pancreatitis": 0.11}),
    # How far consciousness is reduced: the three parts of the coma scale are cut from it.
    "stupor": Signal(-0.2, 0.72, 0.35, {
        "brain": 0.46, "stroke": 0.32, "encephalopathy": 0.48, "epilepsy": 0.22, "respiratory_failure": 0.36,
        "sepsis": 0.18, "alcohol_use_disorder": 0.12, "age": 0.1}),
}  # fmt: skip
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
    "spo2": "Respiratory", "respiratory_rate": "Respiratory", "verbal": "Neurological", "eye": "Neurological",
    "motor": "Neurological",
}  # fmt: skip

_LABS = {
    "creatinine": Signal(0.9, 0.19, 0.07, {
        "renal": 0.17, "kidney": 0.12, "chronic_kidney_disease": 0.25, "male": 0.15, "heart_failure": 0.036}, True),
    "urea_nitrogen": Signal(16, 0.29, 0.08, {
        "renal": 0.17, "kidney": 0.14, "chronic_kidney_disease": 0.18, "congestion": 0.1, "age": 0.12,
        "gastrointestinal_bleeding": 0.16, "heart_failure": 0.072}, True),
    "potassium": Signal(4.1, 0.36, 0.25, {
        "renal": 0.1, "kidney": 0.12, "chronic_kidney_disease": 0.12, "acute_kidney_injury": 0.15,
        "alcohol_use_disorder": -0.09}),
    "sodium": Signal(139.3, 2.3, 1.3, {
        "congestion": -0.71, "liver": -0.41, "hyponatremia": -3.6, "cirrhosis": -0.36, "heart_failure": -0.36,
        "brain": 0.41}),
    "bicarbonate": Signal(25, 2.2, 1.2, {
        "kidney": -0.82, "infection": -0.71, "sepsis": -1.3, "acute_kidney_injury": -0.78,
        "chronic_kidney_disease": -0.72, "pulmonary": 0.5, "copd": 1.3}),
    "anion_gap": Signal(13, 1.8, 1.3, {
        "infection": 0.5, "kidney": 0.5, "sepsis": 0.96, "acute_kidney_injury": 0.6, "chronic_kidney_disease": 0.48,
        "alcohol_use_disorder": 0.6, "diabetes": 0.24}),
    "glucose": Signal(112, 0.17, 0.16, {
        "metabolic": 0.072, "diabetes": 0.19, "infection": 0.052, "sepsis": 0.036, "pancreatitis": 0.054}, True),
    "hemoglobin": Signal(12.9, 1.1, 0.35, {
        "male": 0.9, "age": -0.3, "renal": -0.36, "cancer": -0.41, "bleeding": -0.46, "anemia": -1.1, "liver": -0.2,
        "chronic_kidney_disease": -0.3}),
    "mcv": Signal(90, 4.6, 0.6, {
        "alcohol_use_disorder": 1.9, "substance": 0.82, "cirrhosis": 0.9, "liver": 0.82, "bleeding": -0.82,
        "hypothyroidism": 0.9}),
    "mchc": Signal(33.0, 0.96, 0.35, {"anemia": -0.3, "bleeding": -0.2}),
    "rdw": Signal(13.8, 1.1, 0.2, {
        "anemia": 0.54, "cancer": 0.5, "liver": 0.41, "cirrhosis": 0.32, "metastatic_cancer": 0.25, "renal": 0.25,
        "heart_failure": 0.3}),
    "platelets": Signal(218, 0.3, 0.08, {
        "liver": -0.13, "cirrhosis": -0.09, "thrombocytopenia": -0.37, "coagulopathy": -0.054, "infection": 0.03,
        "cancer": 0.061}, True),
    "white_blood_cells": Signal(8.0, 0.32, 0.12, {
        "infection": 0.16, "sepsis": 0.17, "pneumonia": 0.11, "urinary_tract_infection": 0.072, "pancreatitis": 0.078,
        "cirrhosis": -0.043, "cancer": 0.041, "gastrointestinal_bleeding": 0.029}, True),
    "neutrophils": Signal(70, 8.4, 3, {
        "infection": 4.1, "sepsis": 3.6, "pneumonia": 2.4, "pancreatitis": 1.4, "urinary_tract_infection": 1.2}),
    "magnesium": Signal(2.0, 0.22, 0.12, {
        "substance": -0.052, "alcohol_use_disorder": -0.11, "renal": 0.052, "chronic_kidney_disease": 0.06,
        "pancreatitis": -0.036}),
    "phosphate": Signal(3.5, 0.6, 0.35, {
        "renal": 0.2, "kidney": 0.16, "chronic_kidney_disease": 0.3, "acute_kidney_injury": 0.3,
        "alcohol_use_disorder": -0.21}),
    "calcium": Signal(8.9, 0.42, 0.2, {
        "pancreatitis": -0.18, "sepsis": -0.15, "cirrhosis": -0.11, "renal": -0.061, "metastatic_cancer": 0.09,
        "infection": -0.082}),
    "vancomycin": Signal(15, 0.42, 0.25, {"kidney": 0.12, "acute_kidney_injury": 0.15}, True),
    "lactate": Signal(1.6, 0.36, 0.2, {"infection": 0.16, "sepsis": 0.21, "liver": 0.082, "bleeding": 0.082}, True),
    "inr": Signal(1.15, 0.12, 0.05, {"liver": 0.082, "coagulopathy": 0.11, "atrial_fibrillation": 0.072}, True),
}  # fmt: skip


@dataclass(frozen=True)
class _LabItem:
    item: int
    label: str
    unit: str
    low: float
    high: float
    decimals: int
    # Which draws it is part of.
    panel: str
    category: str = "Chemistry"
    comment: str = ""


_LAB_ITEMS = {
    "creatinine": _LabItem(50912, "Creatinine", "mg/dL", 0.5, 1.2, 1, "basic"),
    "urea_nitrogen": _LabItem(51006, "Urea Nitrogen", "mg/dL", 6, 20, 0, "basic"),
    "potassium": _LabItem(50971, "Potassium", "mEq/L", 3.3, 5.1, 1, "basic"),
    "sodium": _LabItem(50983, "Sodium", "mEq/L", 133, 145, 0, "basic"),
    "chloride": _LabItem(50902, "Chloride", "mEq/L", 96, 108, 0, "basic"),
    "bicarbonate": _LabItem(50882, "Bicarbonate", "mEq/L", 22, 32, 0, "basic"),
    "anion_gap": _LabItem(50868, "Anion Gap", "mEq/L", 8, 20, 0, "basic"),
    "glucose": _LabItem(
        50931,
        "Glucose",
        "mg/dL",
        70,
        100,
        0,
        "basic",
        comment="IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES.",
    ),
    "magnesium": _LabItem(50960, "Magnesium", "mg/dL", 1.6, 2.6, 1, "extended"),
    "phosphate": _LabItem(50970, "Phosphate", "mg/dL", 2.7, 4.5, 1, "extended"),
    "calcium": _LabItem(50893, "Calcium, Total", "mg/dL", 8.4, 10.3, 1, "extended"),
    "hemoglobin": _LabItem(51222, "Hemoglobin", "g/dL", 12, 16, 1, "blood count", "Hematology"),
    "hematocrit": _LabItem(51221, "Hematocrit", "%", 36, 48, 1, "blood count", "Hematology"),
    "red_blood_cells": _LabItem(
        51279, "Red Blood Cells", "m/uL", 4.2, 5.4, 2, "blood count", "Hematology"
    ),
    "mcv": _LabItem(51250, "MCV", "fL", 82, 98, 0, "blood count", "Hematology"),
    "mch": _LabItem(51248, "MCH", "pg", 26, 32, 1, "blood count", "Hematology"),
    "mchc": _LabItem(51249, "MCHC", "g/dL", 31, 35, 1, "blood count", "Hematology"),
    "rdw": _LabItem(51277, "RDW", "%", 10.5, 15.5, 1, "blood count", "Hematology"),
    "platelets": _LabItem(
        51265, "Platelet Count", "K/uL", 150, 400, 0, "blood count", "Hematology"
    ),
    "white_blood_cells": _LabItem(
        51301, "White Blood Cells", "K/uL", 4, 10, 1, "blood count", "Hematology"
    ),
    "neutrophils": _LabItem(51256, "Neutrophils", "%", 34, 71, 1, "differential", "Hematology"),
    "vancomycin": _LabItem(51009, "Vancomycin", "ug/mL", 10, 20, 1, "vancomycin"),
    "lactate": _LabItem(50813, "Lactate", "mmol/L", 0.5, 2.0, 1, "sick", "Blood Gas"),
    "inr": _LabItem(51237, "INR(PT)", "", 0.9, 1.1, 1, "sick", "Hematology"),
}

_PROCEDURES = {
    "foley": (229351, "Foley Catheter", "Tubes", "GI/GU", -0.5, {"severity": 0.5, "age": 0.2,
              "urinary_tract_infection": 0.6, "prostatic_hyperplasia": 0.7}),
    "picc": (224264, "PICC Line", "Invasive Lines", "Access Lines - Invasive", -2.3, {"infection": 0.5, "sepsis": 0.8}),
    "intubation": (224385, "Intubation", "Intubation/Extubation", "1-Intubation/Extubation", -3.0, {"breathing": 0.4,
                   "respiratory_failure": 1.6, "stroke": 0.9, "sepsis": 0.5, "epilepsy": 0.5}),
    "peritoneal": (225805, "Peritoneal Dialysis", "Peritoneal Dialysis", "Dialysis", -6.0, {"renal": 0.6,
                   "chronic_kidney_disease": 1.2}),
    "bronchoscopy": (225400, "Bronchoscopy", "Procedures", "Procedures", -4.2, {"pneumonia": 0.9,
                     "respiratory_failure": 1.0, "cancer": 0.4}),
    "eeg": (221223, "EEG", "Procedures", "4-Procedures", -4.0, {"brain": 0.6, "epilepsy": 1.5, "encephalopathy": 0.8,
            "stroke": 0.6}),
    "crrt": (225802, "Dialysis - CRRT", "Dialysis", "Dialysis", -5.6, {"kidney": 0.8, "acute_kidney_injury": 1.3,
             "sepsis": 0.8}),
    "dialysis_catheter": (224270, "Dialysis Catheter", "Invasive Lines", "Access Lines - Invasive", -4.6, {"renal": 0.6,
                          "chronic_kidney_disease": 1.0, "acute_kidney_injury": 0.9}),
    "chest_tube": (227712, "Chest Tube Removed", "Procedures", "4-Procedures", -4.2, {"pleural_effusion": 1.5,
                   "congestion": 0.3}),
    "hemodialysis": (225441, "Hemodialysis", "Procedures", "4-Procedures", -4.6, {"renal": 0.8,
                     "chronic_kidney_disease": 1.4, "acute_kidney_injury": 0.4}),
}  # fmt: skip
# Lines, tubes and dialysis last; the others are points in time.
_LASTING = ("foley", "picc", "peritoneal", "crrt", "dialysis_catheter")


def chart_items() -> pl.DataFrame:
    """Rows of d_items."""
    charted = [
        (item, label, label, "chartevents", _CATEGORIES.get(name, "Routine Vital Signs"),
         None if unit == "UNK" else unit,
         "Text" if unit == "UNK" else "Numeric")
        for name, (item, label, unit, _) in _CHARTED.items()
    ]  # fmt: skip
    done = [
        (item, label, label, "procedureevents", group, None, "Processes")
        for item, label, _, group, *_ in _PROCEDURES.values()
    ]
    columns = ["itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type"]
    empty = [pl.lit(None, pl.Float64).alias(name) for name in ("lownormalvalue", "highnormalvalue")]
    return pl.DataFrame(charted + done, schema=columns, orient="row").with_columns(empty)


def lab_items() -> pl.DataFrame:
    """Rows of d_labitems."""
    rows = [(lab.item, lab.label, "Blood", lab.category) for lab in _LAB_ITEMS.values()]
    return pl.DataFrame(rows, schema=["itemid", "label", "fluid", "category"], orient="row")


def vital_signs(rng: np.random.Generator, stays: Stays, icu_stay_id: Array) -> pl.DataFrame:
    """Rows of chartevents: hourly rounds in the first hours of intensive care."""
    in_icu = np.flatnonzero(~np.isnat(stays.icu_in))
    rounds = np.minimum((stays.icu_out - stays.icu_in)[in_icu].astype(int) // 3600, _HOURS_CHARTED)
    stay = np.repeat(in_icu, rounds)
    hour = np.arange(len(stay)) - np.repeat(np.cumsum(rounds) - rounds, rounds)
    minutes = (60 * hour + rng.integers(0, 25, len(stay)) * (rng.random(len(stay)) < 0.5)).astype(
        "timedelta64[m]"
    )
    time = stays.icu_in[stay].astype("datetime64[m]") + minutes + np.timedelta64(1, "m")

    values = {name: _course(rng, signal, stays, stay, hour) for name, signal in _VITALS.items()}
    # An irregular pulse differs from count to count.
    values["heart_rate"] += (
        3.5 * rng.standard_normal(len(stay)) * (stays.driver("atrial_fibrillation") > 0)[stay]
    )
    values["spo2"] = np.minimum(values["spo2"], 100)
    values["mean"] = (values["systolic"] + 2 * values["diastolic"]) / 3 + 2 * rng.standard_normal(
        len(stay)
    )
    stupor = values.pop("stupor")
    values["eye"] = np.clip(4.3 - 1.0 * np.maximum(stupor, 0), 1, 4)
    values["verbal"] = np.clip(5.3 - 1.6 * np.maximum(stupor - 0.1, 0), 1, 5)
    values["motor"] = np.clip(6.3 - 0.9 * np.maximum(stupor - 0.6, 0), 1, 6)

    frames = []
    together = rng.random((2, len(stay)))
    for name, (item, _, unit, share) in _CHARTED.items():
        # Parts of one measurement are charted together.
        u = (
            together[0]
            if unit == "mmHg"
            else together[1]
            if unit == "UNK"
            else rng.random(len(stay))
        )
        rows = np.flatnonzero(u < share)
        decimals = 1 if name == "temperature" else 0
        number = np.maximum(np.round(values[name][rows], decimals), 1)
        delay = rng.exponential(20, len(rows)) + (rng.random(len(rows)) < 0.04) * rng.uniform(
            120, 600, len(rows)
        )
        frames.append(pl.DataFrame({
            "stay": stay[rows], "charttime": as_times(time[rows]), "storetime": as_times(time[rows] + _minutes(delay)),
            "itemid": np.full(len(rows), item), "valuenum": number,
            "valueuom": pl.Series([unit]).new_from_index(0, len(rows)),
            "warning": (rng.random(len(rows)) < 0.01).astype(int),
        }))  # fmt: skip
    rows = pl.concat(frames).sort("stay", "charttime", "itemid")
    index = rows["stay"].to_numpy()
    return rows.with_columns(
        subject_id=stays.subject_id[stays.patient[index]],
        hadm_id=stays.hadm_id[index],
        stay_id=icu_stay_id[index],
        caregiver_id=pl.Series(rng.integers(1000, 99999, len(rows))),
        value=pl.col("valuenum").cast(pl.String),
    )


def lab_results(rng: np.random.Generator, stays: Stays, first: int) -> pl.DataFrame:
    """Rows of labevents: draws from the emergency room on, and of some patients in the clinic long
    before.
    """
    stay, time, draw = _draws(rng, stays)
    hour = (time - stays.admit[stay]).astype(float) / 3600
    values = {name: _course(rng, signal, stays, stay, hour) for name, signal in _LABS.items()}
    days = np.clip(hour / 24, -0.5, 4)
    injured = _injured_kidneys(rng, stays, stay, days)
    values["creatinine"] *= np.exp(0.38 * injured)
    values["urea_nitrogen"] *= np.exp(0.28 * injured)
    # A bleed shows only as fluid comes in.
    values["hemoglobin"] -= (
        0.6 * stays.driver("gastrointestinal_bleeding")[stay] * np.clip(0.3 + days, 0, 1)
    )
    # Chloride balances sodium; red cells follow from haemoglobin and the cells' size.
    values["chloride"] = (
        values["sodium"]
        - values["bicarbonate"]
        - values["anion_gap"]
        + rng.normal(0, 0.8, len(stay))
    )
    values["hematocrit"] = 100 * values["hemoglobin"] / values["mchc"]
    values["red_blood_cells"] = 10 * values["hematocrit"] / values["mcv"]
    values["mch"] = values["mchc"] * values["mcv"] / 100

    infection = stays.score({"infection": 0.8, "sepsis": 1.0, "pneumonia": 0.7})
    treated = (rng.random(len(stays)) < logistic(infection - 2.2))[stay]
    severity = stays.driver("severity")[stay]
    # Chance that a draw has a panel.
    chances = {
        "basic": np.full(len(stay), 0.96),
        "extended": np.where(draw == 0, 0.75, 0.65),
        "blood count": np.full(len(stay), 0.93),
        "differential": np.where(draw == 0, 0.6, 0.06),
        "vancomycin": 0.35 * treated * (draw >= 2),
        "sick": logistic(-1.2 + 0.5 * severity + 0.3 * infection[stay]),
    }
    chosen = {panel: rng.random(len(stay)) < chance for panel, chance in chances.items()}
    # Known some hours later; panels of one draw come from different machines.
    known = {
        panel: time + rng.integers(50, 300, len(stay)).astype("timedelta64[m]") for panel in chances
    }
    urgent = rng.random(len(stay)) < logistic(0.2 + 0.5 * severity)
    without_stay = (rng.random(len(stay)) < np.where(draw == 0, 0.3, 0.1)) | (draw < 0)
    specimen = rng.integers(1_000_000, 99_999_999, len(stay))

    frames = []
    for name, lab in _LAB_ITEMS.items():
        rows = np.flatnonzero(chosen[lab.panel] & (rng.random(len(stay)) > 0.01))
        number = np.round(np.maximum(values[name][rows], 10.0**-lab.decimals), lab.decimals)
        if lab.unit == "%":
            number = np.minimum(number, 100)
        unusual = rng.random(len(rows))
        frames.append(pl.DataFrame({
            "row": rows, "itemid": np.full(len(rows), lab.item), "number": number,
            "is_lost": unusual < 0.004, "is_hidden": (unusual > 0.7) & bool(lab.comment),
            "valueuom": pl.Series([lab.unit or None], dtype=pl.String).new_from_index(0, len(rows)),
            "ref_range_lower": np.full(len(rows), float(lab.low)),
            "ref_range_upper": np.full(len(rows), float(lab.high)),
            "remark": pl.Series([lab.comment or None], dtype=pl.String).new_from_index(0, len(rows)),
            "storetime": as_times(known[lab.panel][rows]),
        }))  # fmt: skip
    results = pl.concat(frames).sort("row", "itemid")
    row = results["row"].to_numpy()
    in_stay = stay[row]
    text = pl.col("number").cast(pl.String).str.strip_suffix(".0")
    return results.with_columns(
        labevent_id=first + 1 + np.arange(len(row)),
        subject_id=stays.subject_id[stays.patient[in_stay]],
        hadm_id=pl.when(~pl.Series(without_stay[row])).then(pl.Series(stays.hadm_id[in_stay])),
        specimen_id=specimen[row],
        order_provider_id=pl.lit(None, pl.String),
        charttime=as_times(time[row]),
        value=pl.when("is_lost").then(None).when("is_hidden").then(pl.lit("___")).otherwise(text),
        valuenum=pl.when("is_lost").then(None).otherwise(text),
        flag=pl.when(~pl.col("number").is_between("ref_range_lower", "ref_range_upper")).then(
            pl.lit("abnormal")
        ),
        priority=pl.when(pl.Series(urgent[row])).then(pl.lit("STAT")).otherwise(pl.lit("ROUTINE")),
        comments=pl.when("is_lost").then(pl.lit("UNABLE TO REPORT.")).otherwise("remark"),
        ref_range_lower=pl.col("ref_range_lower").cast(pl.String).str.strip_suffix(".0"),
        ref_range_upper=pl.col("ref_range_upper").cast(pl.String).str.strip_suffix(".0"),
    )


def procedures(rng: np.random.Generator, stays: Stays, icu_stay_id: Array) -> pl.DataFrame:
    """Rows of procedureevents, of stays in intensive care."""
    frames = []
    for name, (item, _, order, _, intercept, effects) in _PROCEDURES.items():
        done = (rng.random(len(stays)) < logistic(intercept + stays.score(effects))) & ~np.isnat(
            stays.icu_in
        )
        stay = np.flatnonzero(done)
        room = (stays.icu_out - stays.icu_in)[stay].astype(int) // 60
        begins = stays.icu_in[stay] + _minutes(
            np.minimum(rng.exponential(600 if name == "foley" else 1000, len(stay)), room - 1)
        )
        begins = begins.astype("datetime64[m]").astype("datetime64[s]")
        lasts = (
            rng.integers(300, 4000, len(stay))
            if name in _LASTING
            else np.ones(len(stay), dtype=int)
        )
        ends = begins + _minutes(lasts)
        # A record that lasts is saved once more when it ends.
        stored = (ends if name in _LASTING else begins) + _minutes(rng.exponential(60, len(stay)))
        size = len(stay)
        kind = pl.Series(["ContinuousProcess" if name in _LASTING else "Task"])
        frames.append(pl.DataFrame({
            "subject_id": stays.subject_id[stays.patient[stay]], "hadm_id": stays.hadm_id[stay],
            "stay_id": icu_stay_id[stay],
            "caregiver_id": rng.integers(1000, 99999, size), "starttime": as_times(begins), "endtime": as_times(ends),
            "storetime": as_times(stored),
            "itemid": np.full(size, item), "value": lasts, "order": rng.integers(10_000, 9_999_999, size),
            "valueuom": pl.Series(["min" if name in _LASTING else None], dtype=pl.String).new_from_index(0, size),
            "ordercategoryname": pl.Series([order]).new_from_index(0, size),
            "ordercategorydescription": kind.new_from_index(0, size),
            "patientweight": np.round(rng.normal(80, 15, size) + 18 * stays.driver("obesity")[stay], 1),
            "isopenbag": np.full(size, int(name in _LASTING)), "ORIGINALRATE": np.full(size, int(name in _LASTING)),
        }))  # fmt: skip
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


def _draws(rng: np.random.Generator, stays: Stays) -> tuple[Array, Array, Array]:
    """Whose blood is drawn, when, and the how-manieth draw of the stay it is (-1: in the clinic,
    before any stay).
    """
    n = len(stays)
    days = np.arange(1, _DAYS_OF_LABS + 1)
    # Each morning at about six; the sick once more on the first day.
    midnight = stays.admit.astype("datetime64[D]").astype("datetime64[m]")
    morning = midnight[:, None] + _minutes(1440 * days + rng.integers(300, 440, (n, len(days))))
    early = stays.admit.astype("datetime64[m]") + _minutes(rng.uniform(-180, 90, n))
    again = stays.admit.astype("datetime64[m]") + _minutes(rng.uniform(300, 720, n))
    before = stays.admit.astype("datetime64[m]") - _minutes(rng.uniform(30, 300, n) * 1440)
    time = np.column_stack([before, early, again, morning])
    number = np.tile(np.array([-1, 0, 1, *(1 + days)]), (n, 1))
    taken = (time < stays.discharge[:, None]) & (rng.random(time.shape) < 0.9)
    taken[:, 1] = True
    taken[:, 2] &= rng.random(n) < logistic(0.8 * stays.driver("severity"))
    is_first = np.insert(stays.patient[1:] != stays.patient[:-1], 0, True)
    taken[:, 0] = is_first & (rng.random(n) < 0.15)
    return np.nonzero(taken)[0], time[taken].astype("datetime64[s]"), number[taken]


def _injured_kidneys(rng: np.random.Generator, stays: Stays, stay: Array, days: Array) -> Array:
    """How far the kidneys have failed at each draw: half come with it, the others get it in the
    hospital.
    """
    onset = np.where(rng.random(len(stays)) < 0.5, 0, rng.uniform(0.3, 2.5, len(stays)))
    return stays.driver("acute_kidney_injury")[stay] * logistic(1 + 4 * (days - onset[stay]))


def _course(
    rng: np.random.Generator, signal: Signal, stays: Stays, stay: Array, hour: Array
) -> Array:
    """Values of one signal, one for each measurement; ``stay`` says whose, ``hour`` when since its
    start.
    """
    n = len(stays)
    level = stays.score(signal.effects) + signal.between * rng.standard_normal(n)
    # The dying move the way illness moves the signal, the others a little back.
    toward = np.sign(sum(signal.effects.values())) * np.where(stays.died, 0.3, -0.1)
    slope = signal.between * (0.35 * rng.standard_normal(n) + toward)
    days = np.clip(hour / 24, -0.5, 4)
    value = (
        level[stay] + slope[stay] * (days - 0.5) + signal.within * rng.standard_normal(len(stay))
    )
    return signal.usual * np.exp(value) if signal.is_ratio else signal.usual + value


def _minutes(count: Array) -> Array:
    return np.asarray(count).astype(int).astype("timedelta64[m]")
