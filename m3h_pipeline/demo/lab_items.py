"""What a laboratory measures: its items, and how each follows a stay's drivers."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from m3h_pipeline.demo.signals import Signal

LAB_SIGNALS = {
    "creatinine": Signal(
        0.9,
        0.19,
        0.07,
        {
            "renal": 0.17,
            "kidney": 0.12,
            "chronic_kidney_disease": 0.25,
            "male": 0.15,
            "heart_failure": 0.036,
        },
        True,
    ),
    "urea_nitrogen": Signal(
        16,
        0.29,
        0.08,
        {
            "renal": 0.17,
            "kidney": 0.14,
            "chronic_kidney_disease": 0.18,
            "congestion": 0.1,
            "age": 0.12,
            "gastrointestinal_bleeding": 0.16,
            "heart_failure": 0.072,
        },
        True,
    ),
    "potassium": Signal(
        4.1,
        0.36,
        0.25,
        {
            "renal": 0.1,
            "kidney": 0.12,
            "chronic_kidney_disease": 0.12,
            "acute_kidney_injury": 0.15,
            "alcohol_use_disorder": -0.09,
        },
    ),
    "sodium": Signal(
        139.3,
        2.3,
        1.3,
        {
            "congestion": -0.71,
            "liver": -0.41,
            "hyponatremia": -3.6,
            "cirrhosis": -0.36,
            "heart_failure": -0.36,
            "brain": 0.41,
        },
    ),
    "bicarbonate": Signal(
        25,
        2.2,
        1.2,
        {
            "kidney": -0.82,
            "infection": -0.71,
            "sepsis": -1.3,
            "acute_kidney_injury": -0.78,
            "chronic_kidney_disease": -0.72,
            "pulmonary": 0.5,
            "copd": 1.3,
        },
    ),
    "anion_gap": Signal(
        13,
        1.8,
        1.3,
        {
            "infection": 0.5,
            "kidney": 0.5,
            "sepsis": 0.96,
            "acute_kidney_injury": 0.6,
            "chronic_kidney_disease": 0.48,
            "alcohol_use_disorder": 0.6,
            "diabetes": 0.24,
        },
    ),
    "glucose": Signal(
        112,
        0.17,
        0.16,
        {
            "metabolic": 0.072,
            "diabetes": 0.19,
            "infection": 0.052,
            "sepsis": 0.036,
            "pancreatitis": 0.054,
        },
        True,
    ),
    "hemoglobin": Signal(
        12.9,
        1.1,
        0.35,
        {
            "male": 0.9,
            "age": -0.3,
            "renal": -0.36,
            "cancer": -0.41,
            "bleeding": -0.46,
            "anemia": -1.1,
            "liver": -0.2,
            "chronic_kidney_disease": -0.3,
        },
    ),
    "mcv": Signal(
        90,
        4.6,
        0.6,
        {
            "alcohol_use_disorder": 1.9,
            "substance": 0.82,
            "cirrhosis": 0.9,
            "liver": 0.82,
            "bleeding": -0.82,
            "hypothyroidism": 0.9,
        },
    ),
    "mchc": Signal(33.0, 0.96, 0.35, {"anemia": -0.3, "bleeding": -0.2}),
    "rdw": Signal(
        13.8,
        1.1,
        0.2,
        {
            "anemia": 0.54,
            "cancer": 0.5,
            "liver": 0.41,
            "cirrhosis": 0.32,
            "metastatic_cancer": 0.25,
            "renal": 0.25,
            "heart_failure": 0.3,
        },
    ),
    "platelets": Signal(
        218,
        0.3,
        0.08,
        {
            "liver": -0.13,
            "cirrhosis": -0.09,
            "thrombocytopenia": -0.37,
            "coagulopathy": -0.054,
            "infection": 0.03,
            "cancer": 0.061,
        },
        True,
    ),
    "white_blood_cells": Signal(
        8.0,
        0.32,
        0.12,
        {
            "infection": 0.16,
            "sepsis": 0.17,
            "pneumonia": 0.11,
            "urinary_tract_infection": 0.072,
            "pancreatitis": 0.078,
            "cirrhosis": -0.043,
            "cancer": 0.041,
            "gastrointestinal_bleeding": 0.029,
        },
        True,
    ),
    "neutrophils": Signal(
        70,
        8.4,
        3,
        {
            "infection": 4.1,
            "sepsis": 3.6,
            "pneumonia": 2.4,
            "pancreatitis": 1.4,
            "urinary_tract_infection": 1.2,
        },
    ),
    "magnesium": Signal(
        2.0,
        0.22,
        0.12,
        {
            "substance": -0.052,
            "alcohol_use_disorder": -0.11,
            "renal": 0.052,
            "chronic_kidney_disease": 0.06,
            "pancreatitis": -0.036,
        },
    ),
    "phosphate": Signal(
        3.5,
        0.6,
        0.35,
        {
            "renal": 0.2,
            "kidney": 0.16,
            "chronic_kidney_disease": 0.3,
            "acute_kidney_injury": 0.3,
            "alcohol_use_disorder": -0.21,
        },
    ),
    "calcium": Signal(
        8.9,
        0.42,
        0.2,
        {
            "pancreatitis": -0.18,
            "sepsis": -0.15,
            "cirrhosis": -0.11,
            "renal": -0.061,
            "metastatic_cancer": 0.09,
            "infection": -0.082,
        },
    ),
    "vancomycin": Signal(15, 0.42, 0.25, {"kidney": 0.12, "acute_kidney_injury": 0.15}, True),
    "lactate": Signal(
        1.6, 0.36, 0.2, {"infection": 0.16, "sepsis": 0.21, "liver": 0.082, "bleeding": 0.082}, True
    ),
    "inr": Signal(
        1.15, 0.12, 0.05, {"liver": 0.082, "coagulopathy": 0.11, "atrial_fibrillation": 0.072}, True
    ),
}


@dataclass(frozen=True)
class LabItem:
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


LAB_ITEMS = {
    "creatinine": LabItem(50912, "Creatinine", "mg/dL", 0.5, 1.2, 1, "basic"),
    "urea_nitrogen": LabItem(51006, "Urea Nitrogen", "mg/dL", 6, 20, 0, "basic"),
    "potassium": LabItem(50971, "Potassium", "mEq/L", 3.3, 5.1, 1, "basic"),
    "sodium": LabItem(50983, "Sodium", "mEq/L", 133, 145, 0, "basic"),
    "chloride": LabItem(50902, "Chloride", "mEq/L", 96, 108, 0, "basic"),
    "bicarbonate": LabItem(50882, "Bicarbonate", "mEq/L", 22, 32, 0, "basic"),
    "anion_gap": LabItem(50868, "Anion Gap", "mEq/L", 8, 20, 0, "basic"),
    "glucose": LabItem(
        50931,
        "Glucose",
        "mg/dL",
        70,
        100,
        0,
        "basic",
        comment="IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES.",
    ),
    "magnesium": LabItem(50960, "Magnesium", "mg/dL", 1.6, 2.6, 1, "extended"),
    "phosphate": LabItem(50970, "Phosphate", "mg/dL", 2.7, 4.5, 1, "extended"),
    "calcium": LabItem(50893, "Calcium, Total", "mg/dL", 8.4, 10.3, 1, "extended"),
    "hemoglobin": LabItem(51222, "Hemoglobin", "g/dL", 12, 16, 1, "blood count", "Hematology"),
    "hematocrit": LabItem(51221, "Hematocrit", "%", 36, 48, 1, "blood count", "Hematology"),
    "red_blood_cells": LabItem(
        51279, "Red Blood Cells", "m/uL", 4.2, 5.4, 2, "blood count", "Hematology"
    ),
    "mcv": LabItem(51250, "MCV", "fL", 82, 98, 0, "blood count", "Hematology"),
    "mch": LabItem(51248, "MCH", "pg", 26, 32, 1, "blood count", "Hematology"),
    "mchc": LabItem(51249, "MCHC", "g/dL", 31, 35, 1, "blood count", "Hematology"),
    "rdw": LabItem(51277, "RDW", "%", 10.5, 15.5, 1, "blood count", "Hematology"),
    "platelets": LabItem(51265, "Platelet Count", "K/uL", 150, 400, 0, "blood count", "Hematology"),
    "white_blood_cells": LabItem(
        51301, "White Blood Cells", "K/uL", 4, 10, 1, "blood count", "Hematology"
    ),
    "neutrophils": LabItem(51256, "Neutrophils", "%", 34, 71, 1, "differential", "Hematology"),
    "vancomycin": LabItem(51009, "Vancomycin", "ug/mL", 10, 20, 1, "vancomycin"),
    "lactate": LabItem(50813, "Lactate", "mmol/L", 0.5, 2.0, 1, "sick", "Blood Gas"),
    "inr": LabItem(51237, "INR(PT)", "", 0.9, 1.1, 1, "sick", "Hematology"),
}


def list_lab_items() -> pl.DataFrame:
    """Rows of d_labitems."""
    rows = [(lab.item, lab.label, "Blood", lab.category) for lab in LAB_ITEMS.values()]
    return pl.DataFrame(rows, schema=["itemid", "label", "fluid", "category"], orient="row")
