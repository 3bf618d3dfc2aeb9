"""Factors, diseases and what they lead to: the numbers behind the story.

*Chronic* factors belong to the patient and last from stay to stay, *acute* ones belong to the stay.
A disease's log-odds are a weighted sum of factors and of diseases that lead to it.
"""

from __future__ import annotations

from dataclasses import dataclass

CHRONIC = (
    "metabolic",
    "vascular",
    "cardiac",
    "renal",
    "pulmonary",
    "liver",
    "substance",
    "cancer",
    "mood",
)

ACUTE = ("infection", "congestion", "breathing", "kidney", "bleeding", "brain")

# An acute factor's part that comes from a chronic one.
PREDISPOSED = {
    "congestion": "cardiac",
    "breathing": "pulmonary",
    "kidney": "renal",
    "bleeding": "liver",
}


@dataclass(frozen=True)
class Disease:
    """How frequent a disease is among stays, and what raises its log-odds: factors, age, male sex,
    earlier diseases.

    A lasting disease is the patient's and comes back in each stay.
    """

    share: float
    causes: dict[str, float]
    lasting: bool = True


# In an order in which causes come first.
DISEASES: dict[str, Disease] = {
    "obesity": Disease(0.17, {"metabolic": 2.2, "age": -0.4}),
    "hypertension": Disease(0.46, {"metabolic": 1.1, "vascular": 1.0, "renal": 0.6, "age": 0.9}),
    "hyperlipidemia": Disease(0.38, {"metabolic": 1.4, "vascular": 1.1, "age": 0.6}),
    "diabetes": Disease(0.30, {"metabolic": 2.0, "renal": 0.3, "age": 0.3, "obesity": 0.6}),
    "chronic_kidney_disease": Disease(
        0.20, {"renal": 2.5, "age": 0.6, "hypertension": 0.5, "diabetes": 0.6}
    ),
    "ischemic_heart_disease": Disease(
        0.25,
        {
            "vascular": 2.0,
            "metabolic": 0.5,
            "pulmonary": 0.3,
            "age": 0.7,
            "male": 0.8,
            "hyperlipidemia": 0.4,
        },
    ),
    "valve_disease": Disease(0.10, {"cardiac": 2.0, "age": 1.1}),
    "heart_failure": Disease(
        0.22,
        {
            "cardiac": 2.2,
            "congestion": 0.6,
            "age": 0.5,
            "ischemic_heart_disease": 0.6,
            "valve_disease": 0.6,
        },
    ),
    "atrial_fibrillation": Disease(
        0.20, {"cardiac": 1.6, "age": 1.2, "heart_failure": 0.6, "valve_disease": 0.4}
    ),
    "peripheral_artery_disease": Disease(
        0.06, {"vascular": 2.2, "pulmonary": 0.9, "metabolic": 0.4, "age": 0.4, "diabetes": 0.5}
    ),
    "copd": Disease(0.16, {"pulmonary": 2.6, "age": 0.5}),
    "tobacco_use_disorder": Disease(
        0.17, {"pulmonary": 1.7, "substance": 0.8, "mood": 0.5, "age": -0.6}
    ),
    "alcohol_use_disorder": Disease(
        0.13, {"substance": 2.4, "mood": 0.4, "age": -0.5, "male": 0.8}
    ),
    "viral_hepatitis": Disease(0.06, {"substance": 1.4, "liver": 1.6, "age": -0.3}),
    "cirrhosis": Disease(0.08, {"liver": 2.6, "alcohol_use_disorder": 0.9, "viral_hepatitis": 0.9}),
    "depression": Disease(0.24, {"mood": 2.2, "male": -0.5}),
    "anxiety": Disease(0.16, {"mood": 2.2, "male": -0.5, "age": -0.3}),
    "hypothyroidism": Disease(0.13, {"mood": 0.7, "metabolic": 0.7, "age": 0.8, "male": -1.6}),
    "gastroesophageal_reflux": Disease(
        0.21, {"mood": 1.0, "metabolic": 0.9, "pulmonary": 0.5, "age": 0.3}
    ),
    "gout": Disease(
        0.08,
        {"renal": 1.4, "metabolic": 1.3, "age": 0.5, "male": 1.2, "chronic_kidney_disease": 0.4},
    ),
    "osteoarthritis": Disease(0.11, {"age": 1.9, "metabolic": 1.0, "male": -0.6, "obesity": 0.5}),
    # 40 log-odds: men only.
    "prostatic_hyperplasia": Disease(0.08, {"male": 40.0, "age": 2.0, "kidney": 0.4}),
    "digestive_cancer": Disease(0.06, {"cancer": 2.6, "liver": 0.5, "age": 0.4}),
    "metastatic_cancer": Disease(0.07, {"cancer": 2.6, "digestive_cancer": 1.2}),
    "sepsis": Disease(0.13, {"infection": 2.7, "cancer": 0.3, "age": 0.3}, lasting=False),
    "pneumonia": Disease(
        0.14, {"infection": 1.8, "breathing": 1.2, "pulmonary": 0.4}, lasting=False
    ),
    "urinary_tract_infection": Disease(
        0.13, {"infection": 1.5, "age": 0.9, "male": -1.4, "brain": 0.4}, lasting=False
    ),
    "acute_kidney_injury": Disease(
        0.26,
        {
            "kidney": 2.0,
            "renal": 0.5,
            "sepsis": 1.2,
            "heart_failure": 0.5,
            "chronic_kidney_disease": 0.6,
        },
        lasting=False,
    ),
    "respiratory_failure": Disease(
        0.17,
        {"breathing": 2.3, "pneumonia": 1.0, "sepsis": 0.9, "heart_failure": 0.4, "copd": 0.5},
        lasting=False,
    ),
    "pleural_effusion": Disease(
        0.12,
        {
            "congestion": 1.9,
            "cancer": 0.6,
            "heart_failure": 0.6,
            "pneumonia": 0.5,
            "metastatic_cancer": 0.6,
        },
        lasting=False,
    ),
    "gastrointestinal_bleeding": Disease(
        0.07, {"bleeding": 2.6, "liver": 0.5, "cirrhosis": 0.5}, lasting=False
    ),
    "anemia": Disease(
        0.38,
        {
            "bleeding": 1.3,
            "renal": 0.8,
            "cancer": 0.9,
            "age": 0.3,
            "gastrointestinal_bleeding": 1.2,
            "chronic_kidney_disease": 0.7,
            "cirrhosis": 0.5,
        },
        lasting=False,
    ),
    "hyponatremia": Disease(
        0.12, {"congestion": 1.0, "liver": 0.8, "cancer": 0.6, "age": 0.3}, lasting=False
    ),
    "pancreatitis": Disease(
        0.05,
        {"substance": 1.8, "metabolic": 0.8, "infection": 0.8, "alcohol_use_disorder": 0.7},
        lasting=False,
    ),
    "thrombocytopenia": Disease(
        0.13,
        {
            "liver": 1.2,
            "infection": 0.8,
            "cancer": 0.5,
            "bleeding": 0.5,
            "cirrhosis": 1.0,
            "sepsis": 0.6,
        },
        lasting=False,
    ),
    "coagulopathy": Disease(
        0.07,
        {"liver": 1.4, "bleeding": 1.1, "infection": 0.7, "cirrhosis": 0.8, "sepsis": 0.6},
        lasting=False,
    ),
    "venous_thromboembolism": Disease(
        0.07, {"cancer": 1.6, "breathing": 1.4, "metastatic_cancer": 0.6}, lasting=False
    ),
    "stroke": Disease(
        0.07, {"brain": 2.2, "vascular": 1.3, "age": 0.3, "atrial_fibrillation": 0.6}, lasting=False
    ),
    "epilepsy": Disease(
        0.07, {"brain": 2.0, "substance": 1.0, "age": -0.4, "stroke": 0.4}, lasting=False
    ),
    "encephalopathy": Disease(
        0.13,
        {"brain": 2.0, "age": 0.8, "infection": 0.5, "sepsis": 0.7, "cirrhosis": 0.7},
        lasting=False,
    ),
}

# What makes a stay severe: it brings patients to intensive care, lengthens the stay and kills.
SEVERITY = {
    "infection": 0.4,
    "congestion": 0.2,
    "breathing": 0.4,
    "kidney": 0.3,
    "bleeding": 0.25,
    "brain": 0.4,
    "cancer": 0.3,
    "age": 0.35,
    "sepsis": 0.7,
    "respiratory_failure": 0.8,
    "acute_kidney_injury": 0.3,
    "stroke": 0.6,
    "metastatic_cancer": 0.6,
    "cirrhosis": 0.3,
    "pancreatitis": 0.3,
    "gastrointestinal_bleeding": 0.3,
}

# What keeps from going home alone.
DEPENDENCE = {
    "age": 0.9,
    "brain": 0.7,
    "stroke": 1.0,
    "encephalopathy": 0.6,
    "osteoarthritis": 0.4,
    "heart_failure": 0.3,
    "infection": 0.3,
    "breathing": 0.2,
    "peripheral_artery_disease": 0.3,
}

DRIVERS = (*CHRONIC, *ACUTE, "age", "male", *DISEASES, "severity")
