"""What is known of a patient, in a referring doctor's words: a part of the lasting diseases, now
and then a wrong or a denied one, and complaints that several illnesses share.
"""

from __future__ import annotations

import numpy as np

from m3h_pipeline.demo.diseases import DISEASES, DRIVERS
from m3h_pipeline.demo.randomness import RandomNumbers
from m3h_pipeline.demo.stays import Array, Stays

# What a referring doctor writes of a disease; how often a present one is written at all.
_WORDS: dict[str, tuple[float, tuple[str, ...]]] = {
    "obesity": (0.35, ("obesity", "morbid obesity", "elevated BMI", "obese habitus")),
    "hypertension": (0.65, ("HTN", "hypertension", "high blood pressure")),
    "hyperlipidemia": (
        0.65,
        ("HLD", "hyperlipidemia", "hypercholesterolemia", "dyslipidemia on a statin"),
    ),
    "diabetes": (0.65, ("DM2", "type 2 diabetes", "diabetes on insulin", "IDDM", "T2DM")),
    "chronic_kidney_disease": (
        0.65,
        ("CKD", "chronic kidney disease", "renal insufficiency", "CKD stage 3", "ESRD on HD"),
    ),
    "ischemic_heart_disease": (
        0.7,
        ("CAD", "coronary artery disease", "prior MI", "CAD s/p stent", "s/p CABG"),
    ),
    "valve_disease": (0.5, ("aortic stenosis", "mitral regurgitation", "known murmur", "s/p AVR")),
    "heart_failure": (
        0.65,
        ("CHF", "heart failure", "cardiomyopathy with reduced EF", "diastolic dysfunction"),
    ),
    "atrial_fibrillation": (
        0.65,
        ("AFib", "atrial fibrillation", "AF on warfarin", "paroxysmal atrial fibrillation"),
    ),
    "peripheral_artery_disease": (
        0.5,
        ("PVD", "peripheral arterial disease", "claudication", "s/p leg bypass"),
    ),
    "copd": (0.7, ("COPD", "emphysema", "chronic obstructive lung disease", "COPD on home O2")),
    "tobacco_use_disorder": (
        0.65,
        ("active smoker", "tobacco abuse", "current smoker, 30 pack years", "smokes 1 ppd"),
    ),
    "alcohol_use_disorder": (
        0.65,
        ("EtOH abuse", "alcohol use disorder", "alcohol withdrawal", "daily alcohol use"),
    ),
    "viral_hepatitis": (0.5, ("hepatitis C", "HCV", "chronic hepatitis B", "untreated HCV")),
    "cirrhosis": (0.5, ("cirrhosis", "end stage liver disease", "ESLD", "cirrhosis with ascites")),
    "depression": (
        0.6,
        ("depression", "major depressive disorder", "depression on an SSRI", "MDD"),
    ),
    "anxiety": (
        0.6,
        ("anxiety", "generalized anxiety disorder", "panic attacks", "anxiety on benzodiazepines"),
    ),
    "hypothyroidism": (
        0.65,
        ("hypothyroidism", "on levothyroxine", "underactive thyroid", "hypothyroid"),
    ),
    "gastroesophageal_reflux": (
        0.6,
        ("GERD", "acid reflux", "reflux disease on a PPI", "gastroesophageal reflux"),
    ),
    "gout": (0.5, ("gout", "gout on allopurinol", "gouty arthritis", "recent gout flare")),
    "osteoarthritis": (
        0.6,
        ("osteoarthritis", "degenerative joint disease", "s/p knee replacement", "OA of the hips"),
    ),
    "prostatic_hyperplasia": (
        0.5,
        ("BPH", "enlarged prostate", "BPH on tamsulosin", "urinary retention from BPH"),
    ),
    "digestive_cancer": (
        0.5,
        ("colon cancer", "pancreatic cancer", "rectal cancer on chemotherapy", "gastric cancer"),
    ),
    "metastatic_cancer": (
        0.45,
        ("metastatic disease", "metastatic cancer", "stage IV malignancy", "known metastases"),
    ),
    "epilepsy": (0.45, ("seizure disorder", "epilepsy", "seizure", "witnessed convulsion")),
    "venous_thromboembolism": (0.25, ("recent DVT", "PE", "leg clot on anticoagulation")),
    "anemia": (0.3, ("anemia", "low hematocrit", "chronic anemia", "falling Hct")),
    "thrombocytopenia": (0.25, ("thrombocytopenia", "low platelets")),
    "coagulopathy": (0.25, ("coagulopathy", "elevated INR", "supratherapeutic INR")),
    "acute_kidney_injury": (0.25, ("AKI", "acute renal failure", "rising creatinine")),
    "hyponatremia": (0.2, ("hyponatremia", "low sodium")),
    "sepsis": (0.3, ("sepsis", "septic shock", "bacteremia", "fever and hypotension")),
    "urinary_tract_infection": (0.35, ("UTI", "urosepsis", "dysuria", "positive urinalysis")),
    "pancreatitis": (
        0.4,
        ("pancreatitis", "elevated lipase", "epigastric pain radiating to the back"),
    ),
    "gastrointestinal_bleeding": (
        0.4,
        ("GI bleed", "melena", "hematemesis", "bright red blood per rectum"),
    ),
    "stroke": (0.35, ("CVA", "acute stroke", "facial droop and weakness", "aphasia")),
    "encephalopathy": (0.35, ("altered mental status", "encephalopathy", "delirium", "confusion")),
    "pneumonia": (0.3, ("pneumonia", "PNA", "cough and fever", "productive cough")),
    "respiratory_failure": (
        0.35,
        ("respiratory failure", "respiratory distress", "hypoxia", "increasing O2 requirement"),
    ),
    "pleural_effusion": (0.2, ("known effusion", "pleural effusion", "s/p thoracentesis")),
}

_WRITTEN_WRONGLY = 0.02

_DENIED = 0.02

# Complaints, and what makes each more likely. Several illnesses share each.
_COMPLAINTS: dict[str, tuple[float, dict[str, float]]] = {
    "dyspnea": (0.0, {"breathing": 0.8, "congestion": 0.6, "pulmonary": 0.4, "cardiac": 0.3}),
    "shortness of breath on exertion": (
        -0.8,
        {"congestion": 0.8, "cardiac": 0.5, "breathing": 0.4},
    ),
    "cough": (-0.5, {"breathing": 0.5, "infection": 0.5, "pulmonary": 0.5}),
    "fever": (-0.5, {"infection": 1.0, "cancer": 0.2}),
    "chest pain": (-0.2, {"vascular": 0.6, "mood": 0.4, "metabolic": 0.2, "infection": -0.3}),
    "palpitations": (-1.4, {"cardiac": 0.7, "mood": 0.4}),
    "leg swelling": (-1.2, {"congestion": 0.8, "renal": 0.4, "liver": 0.3}),
    "abdominal pain": (-0.3, {"bleeding": 0.4, "liver": 0.4, "substance": 0.4, "cancer": 0.4}),
    "nausea and vomiting": (-0.9, {"kidney": 0.4, "substance": 0.3, "mood": 0.2, "cancer": 0.3}),
    "abdominal distension": (-1.3, {"liver": 0.8, "cancer": 0.5}),
    "dark stools": (-2.0, {"bleeding": 1.1}),
    "lightheadedness": (-1.0, {"bleeding": 0.6, "cardiac": 0.3, "age": 0.2}),
    "weakness": (-0.5, {"brain": 0.4, "kidney": 0.4, "age": 0.4, "cancer": 0.3}),
    "confusion": (-1.2, {"brain": 1.0, "age": 0.4, "liver": 0.3, "infection": 0.3}),
    "fall": (-0.6, {"age": 0.6, "substance": 0.3, "brain": 0.5}),
    "headache": (-1.3, {"brain": 0.6, "mood": 0.3}),
    "decreased urine output": (-1.6, {"kidney": 0.9, "renal": 0.4}),
    "weight loss": (-1.6, {"cancer": 1.0}),
    "back pain": (-1.2, {"metabolic": 0.3, "mood": 0.3, "cancer": 0.3}),
    "preoperative assessment": (-0.6, {"severity": -0.8}),
}

# Ways of life that go with a factor: written where it is high.
_CIRCUMSTANCES = {
    "lives in a nursing home": ("age", 1.2),
    "wheelchair bound": ("brain", 1.5),
    "homeless": ("substance", 1.5),
    "on methadone": ("substance", 1.3),
    "quit smoking last year": ("pulmonary", 0.9),
    "uses inhalers": ("pulmonary", 1.2),
    "takes aspirin and clopidogrel": ("vascular", 1.1),
    "on furosemide": ("cardiac", 1.0),
    "fluid overloaded": ("congestion", 1.2),
    "followed by nephrology": ("renal", 1.2),
    "jaundiced": ("liver", 1.4),
    "cachectic": ("cancer", 1.3),
    "on chemotherapy": ("cancer", 1.6),
    "tearful": ("mood", 1.5),
    "takes sertraline": ("mood", 1.1),
    "poorly controlled sugars": ("metabolic", 1.3),
    "on broad spectrum antibiotics": ("infection", 1.3),
    "on high flow oxygen": ("breathing", 1.5),
    "transfused overnight": ("bleeding", 1.4),
    "oliguric": ("kidney", 1.5),
    "drowsy": ("brain", 1.1),
    "poor sleep": ("mood", 0.8),
    "chronic pain": ("mood", 1.0),
    "carotid stenosis": ("vascular", 1.3),
    "weak pulses": ("vascular", 0.9),
    "on amiodarone": ("cardiac", 1.4),
}

_COLUMN = {name: k for k, name in enumerate(DRIVERS)}


def draw_history(draw: RandomNumbers, x: Array, stays: Stays, stay: int) -> list[str]:
    """What is known of a stay's patient, in words, in no order."""
    items = []
    for name, (chance, words) in _WORDS.items():
        if x[_COLUMN[name]] > 0:
            if draw.happens(chance):
                items.append(draw.pick(words))
        elif draw.happens(_WRITTEN_WRONGLY * (1 if DISEASES[name].share > 0.1 else 0.5)):
            items.append(draw.pick(words))
        elif draw.happens(_DENIED):
            items.append(f"no {words[0]}")
    for words, (factor, above) in _CIRCUMSTANCES.items():
        chance = 1 / (1 + np.exp(-2.5 * (x[_COLUMN[factor]] - above) - 0.5))
        if draw.happens(chance) and draw.happens(0.6):
            items.append(words)
    return sorted(items, key=lambda _: draw.uniform())[:9]


def draw_complaints(rng: np.random.Generator, stays: Stays) -> list[list[str]]:
    """One to three complaints of each stay."""
    scores = np.column_stack([base + stays.score(causes) for base, causes in _COMPLAINTS.values()])
    order = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)
    names = list(_COMPLAINTS)
    many = rng.integers(1, 4, len(stays))
    complaints = []
    for row, count in zip(order, many, strict=True):
        complaints.append([names[k] for k in row[:count]])
    return complaints
