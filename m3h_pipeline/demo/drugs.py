"""Orders of drugs and the services that cared for the patient, as rows of MIMIC-IV's prescriptions
and services.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from m3h_pipeline.demo.signals import to_minutes
from m3h_pipeline.demo.stays import Array, Stays, logistic, scatter_ids, to_times

# Drug -> dose, unit, route, log-odds of an order, what raises them. Those that a patient takes at
# home are ordered at once, the others as the stay goes on.
_AT_HOME = {
    "Metoprolol Tartrate": (
        *("25", "mg", "PO/NG", -1.8),
        {"hypertension": 0.9, "atrial_fibrillation": 1.2, "ischemic_heart_disease": 0.9},
    ),
    "Lisinopril": ("10", "mg", "PO/NG", -2.0, {"hypertension": 1.3, "heart_failure": 0.5}),
    "Atorvastatin": (
        *("40", "mg", "PO/NG", -1.7),
        {"hyperlipidemia": 1.4, "ischemic_heart_disease": 0.8},
    ),
    "Insulin (Glargine)": ("20", "UNIT", "SC", -3.2, {"diabetes": 1.9}),
    "Insulin (Regular)": ("0", "UNIT", "SC", -2.2, {"diabetes": 1.7, "severity": 0.2}),
    "Metformin": ("500", "mg", "PO/NG", -3.6, {"diabetes": 1.6, "renal": -0.5}),
    "Levothyroxine Sodium": ("75", "mcg", "PO/NG", -3.6, {"hypothyroidism": 2.6}),
    "Warfarin": ("5", "mg", "PO/NG", -3.2, {"atrial_fibrillation": 1.6, "valve_disease": 0.8}),
    "Aspirin": ("81", "mg", "PO/NG", -1.2, {"ischemic_heart_disease": 1.5, "stroke": 0.6}),
    "Tiotropium Bromide": ("1", "CAP", "IH", -3.8, {"copd": 2.1}),
    "Nicotine Patch": ("14", "mg", "TD", -3.4, {"tobacco_use_disorder": 2.0}),
    "Sertraline": ("50", "mg", "PO/NG", -3.0, {"depression": 1.5, "anxiety": 0.9}),
    "Omeprazole": ("20", "mg", "PO", -1.6, {"gastroesophageal_reflux": 1.5}),
    "Allopurinol": ("100", "mg", "PO/NG", -3.9, {"gout": 2.3}),
    "Tamsulosin": ("0.4", "mg", "PO", -4.0, {"prostatic_hyperplasia": 2.4}),
    "Lactulose": ("30", "mL", "PO/NG", -3.6, {"cirrhosis": 1.9, "encephalopathy": 0.7}),
    "Thiamine": ("100", "mg", "PO/NG", -3.0, {"alcohol_use_disorder": 2.1}),
}
_IN_HOSPITAL = {
    "Acetaminophen": ("650", "mg", "PO/NG", 0.6, {"osteoarthritis": 0.4}),
    "Heparin": ("5000", "UNIT", "SC", 0.4, {"bleeding": -0.6, "gastrointestinal_bleeding": -1.2}),
    "Vancomycin": ("1000", "mg", "IV", -1.4, {"infection": 0.7, "sepsis": 1.1, "pneumonia": 0.6}),
    "Piperacillin-Tazobactam": ("4.5", "g", "IV", -2.2, {"infection": 0.7, "sepsis": 1.2}),
    "CefTRIAXone": (
        *("1", "g", "IV", -1.8),
        {"infection": 0.5, "pneumonia": 0.8, "urinary_tract_infection": 1.2},
    ),
    "Furosemide": (
        *("40", "mg", "IV", -1.6),
        {"congestion": 0.7, "heart_failure": 1.2, "pleural_effusion": 0.6},
    ),
    "Norepinephrine": ("0.05", "mcg/kg/min", "IV DRIP", -3.2, {"severity": 0.9, "sepsis": 0.9}),
    "Propofol": ("20", "mcg/kg/min", "IV DRIP", -2.8, {"respiratory_failure": 1.4, "brain": 0.3}),
    "Potassium Chloride": ("40", "mEq", "PO/NG", -0.8, {"congestion": 0.3, "kidney": -0.4}),
    "Pantoprazole": ("40", "mg", "IV", -1.8, {"gastrointestinal_bleeding": 2.2, "bleeding": 0.4}),
    "LevETIRAcetam": ("500", "mg", "PO/NG", -3.4, {"epilepsy": 2.3, "stroke": 0.4, "brain": 0.3}),
    "Enoxaparin Sodium": ("80", "mg", "SC", -3.0, {"venous_thromboembolism": 2.2}),
    "Albuterol 0.083% Neb Soln": ("1", "NEB", "IH", -2.0, {"copd": 1.4, "breathing": 0.5}),
    "LORazepam": ("1", "mg", "IV", -2.4, {"alcohol_use_disorder": 1.4, "anxiety": 0.7}),
}
# Hours after the admission at which most are ordered, on average.
_FIRST_ORDERS = 4.0
_LATER_ORDERS = 20.0
_SERVICES = {
    "MED": (1.2, {}),
    "CMED": (0.0, {"cardiac": 0.5, "heart_failure": 0.6, "ischemic_heart_disease": 0.6}),
    "SURG": (-0.2, {"bleeding": 0.3}),
    "NMED": (-1.0, {"brain": 0.7, "stroke": 1.2, "epilepsy": 0.8}),
    "OMED": (-1.6, {"cancer": 0.8, "metastatic_cancer": 1.0}),
    "ORTHO": (-1.4, {"osteoarthritis": 0.8}),
}


def draw_prescriptions(rng: np.random.Generator, stays: Stays) -> pl.DataFrame:
    """Rows of prescriptions."""
    frames = [
        _draw_orders(rng, stays, drug, about, hours)
        for drugs, hours in ((_AT_HOME, _FIRST_ORDERS), (_IN_HOSPITAL, _LATER_ORDERS))
        for drug, about in drugs.items()
    ]
    rows = pl.concat(frames).sort("subject_id", "starttime", "drug")
    numbers = scatter_ids(rng.integers(0, 9_000_000, len(rows)), 0)
    empty = [
        *("poe_id", "poe_seq", "order_provider_id", "formulary_drug_cd", "gsn", "ndc"),
        *("prod_strength", "form_rx", "form_val_disp", "form_unit_disp", "doses_per_24_hrs"),
    ]
    return rows.with_columns(
        pl.Series("pharmacy_id", 10_000_000 + numbers),
        pl.lit("MAIN").alias("drug_type"),
        *(pl.lit(None, pl.String).alias(name) for name in empty),
    )


def _draw_orders(
    rng: np.random.Generator,
    stays: Stays,
    drug: str,
    about: tuple[str, str, str, float, dict[str, float]],
    hours: float,
) -> pl.DataFrame:
    dose, unit, route, intercept, effects = about
    is_ordered = rng.random(len(stays)) < logistic(intercept + stays.score(effects))
    stay = np.flatnonzero(is_ordered)
    delay = np.minimum(rng.exponential(hours, len(stay)), 0.9 * stays.hours[stay])
    # Orders are timed to the full hour.
    starts = (stays.admit[stay] + to_minutes(60 * delay)).astype("datetime64[h]")
    starts = np.maximum(starts.astype("datetime64[s]"), stays.admit[stay])
    return pl.DataFrame(
        {
            "subject_id": stays.subject_id[stays.patient[stay]],
            "hadm_id": stays.hadm_id[stay],
            "starttime": to_times(starts),
            "stoptime": to_times(np.maximum(stays.discharge[stay], starts)),
        }
    ).with_columns(
        pl.lit(drug).alias("drug"),
        pl.lit(dose).alias("dose_val_rx"),
        pl.lit(unit).alias("dose_unit_rx"),
        pl.lit(route).alias("route"),
    )


def draw_services(rng: np.random.Generator, stays: Stays) -> pl.DataFrame:
    """Rows of services: the first of each stay."""
    scores = np.column_stack(
        [
            intercept + (stays.score(effects) if effects else np.zeros(len(stays)))
            for intercept, effects in _SERVICES.values()
        ]
    )
    # The highest of scores with Gumbel noise is a draw from their softmax.
    chosen: Array = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    return pl.DataFrame(
        {
            "subject_id": stays.subject_id[stays.patient],
            "hadm_id": stays.hadm_id,
            "transfertime": to_times(stays.admit + to_minutes(rng.integers(1, 30, len(stays)))),
            "curr_service": np.array(list(_SERVICES))[chosen],
        }
    ).with_columns(pl.lit(None, pl.String).alias("prev_service"))
