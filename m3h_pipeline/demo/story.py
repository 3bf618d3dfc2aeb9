"""Patients and stays: who they are, what they have, how ill they are, how it ends.

Everything is drawn from a few latent factors. *Chronic* factors belong to the patient and last from
stay to stay, *acute* ones belong to the stay. A disease's log-odds are a weighted sum of factors
and of diseases that lead to it; the intercept is set so that the disease is as frequent as its
``share`` says. What can be observed (measurements, notes, images) follows the factors and the
diseases alike, so no observation decides a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl

Array = np.ndarray[Any, Any]

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
_PREDISPOSED = {
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
    "chronic_kidney_disease": Disease(0.20, {"renal": 2.5, "age": 0.6, "hypertension": 0.5, "diabetes": 0.6}),
    "ischemic_heart_disease": Disease(
        0.25, {"vascular": 2.0, "metabolic": 0.5, "pulmonary": 0.3, "age": 0.7, "male": 0.8, "hyperlipidemia": 0.4}
    ),
    "valve_disease": Disease(0.10, {"cardiac": 2.0, "age": 1.1}),
    "heart_failure": Disease(
        0.22, {"cardiac": 2.2, "congestion": 0.6, "age": 0.5, "ischemic_heart_disease": 0.6, "valve_disease": 0.6}
    ),
    "atrial_fibrillation": Disease(0.20, {"cardiac": 1.6, "age": 1.2, "heart_failure": 0.6, "valve_disease": 0.4}),
    "peripheral_artery_disease": Disease(
        0.06, {"vascular": 2.2, "pulmonary": 0.9, "metabolic": 0.4, "age": 0.4, "diabetes": 0.5}
    ),
    "copd": Disease(0.16, {"pulmonary": 2.6, "age": 0.5}),
    "tobacco_use_disorder": Disease(0.17, {"pulmonary": 1.7, "substance": 0.8, "mood": 0.5, "age": -0.6}),
    "alcohol_use_disorder": Disease(0.13, {"substance": 2.4, "mood": 0.4, "age": -0.5, "male": 0.8}),
    "viral_hepatitis": Disease(0.06, {"substance": 1.4, "liver": 1.6, "age": -0.3}),
    "cirrhosis": Disease(0.08, {"liver": 2.6, "alcohol_use_disorder": 0.9, "viral_hepatitis": 0.9}),
    "depression": Disease(0.24, {"mood": 2.2, "male": -0.5}),
    "anxiety": Disease(0.16, {"mood": 2.2, "male": -0.5, "age": -0.3}),
    "hypothyroidism": Disease(0.13, {"mood": 0.7, "metabolic": 0.7, "age": 0.8, "male": -1.6}),
    "gastroesophageal_reflux": Disease(0.21, {"mood": 1.0, "metabolic": 0.9, "pulmonary": 0.5, "age": 0.3}),
    "gout": Disease(0.08, {"renal": 1.4, "metabolic": 1.3, "age": 0.5, "male": 1.2, "chronic_kidney_disease": 0.4}),
    "osteoarthritis": Disease(0.11, {"age": 1.9, "metabolic": 1.0, "male": -0.6, "obesity": 0.5}),
    # 40 log-odds: men only.
    "prostatic_hyperplasia": Disease(0.08, {"male": 40.0, "age": 2.0, "kidney": 0.4}),
    "digestive_cancer": Disease(0.06, {"cancer": 2.6, "liver": 0.5, "age": 0.4}),
    "metastatic_cancer": Disease(0.07, {"cancer": 2.6, "digestive_cancer": 1.2}),
    "sepsis": Disease(0.13, {"infection": 2.7, "cancer": 0.3, "age": 0.3}, lasting=False),
    "pneumonia": Disease(0.14, {"infection": 1.8, "breathing": 1.2, "pulmonary": 0.4}, lasting=False),
    "urinary_tract_infection": Disease(0.13, {"infection": 1.5, "age": 0.9, "male": -1.4, "brain": 0.4}, lasting=False),
    "acute_kidney_injury": Disease(
        0.26, {"kidney": 2.0, "renal": 0.5, "sepsis": 1.2, "heart_failure": 0.5, "chronic_kidney_disease": 0.6},
        lasting=False,
    ),
    "respiratory_failure": Disease(
        0.17, {"breathing": 2.3, "pneumonia": 1.0, "sepsis": 0.9, "heart_failure": 0.4, "copd": 0.5}, lasting=False
    ),
    "pleural_effusion": Disease(
        0.12, {"congestion": 1.9, "cancer": 0.6, "heart_failure": 0.6, "pneumonia": 0.5, "metastatic_cancer": 0.6},
        lasting=False,
    ),
    "gastrointestinal_bleeding": Disease(0.07, {"bleeding": 2.6, "liver": 0.5, "cirrhosis": 0.5}, lasting=False),
    "anemia": Disease(
        0.38,
        {"bleeding": 1.3, "renal": 0.8, "cancer": 0.9, "age": 0.3, "gastrointestinal_bleeding": 1.2,
         "chronic_kidney_disease": 0.7, "cirrhosis": 0.5},
        lasting=False,
    ),
    "hyponatremia": Disease(0.12, {"congestion": 1.0, "liver": 0.8, "cancer": 0.6, "age": 0.3}, lasting=False),
    "pancreatitis": Disease(
        0.05, {"substance": 1.8, "metabolic": 0.8, "infection": 0.8, "alcohol_use_disorder": 0.7}, lasting=False
    ),
    "thrombocytopenia": Disease(
        0.13, {"liver": 1.2, "infection": 0.8, "cancer": 0.5, "bleeding": 0.5, "cirrhosis": 1.0, "sepsis": 0.6},
        lasting=False,
    ),
    "coagulopathy": Disease(
        0.07, {"liver": 1.4, "bleeding": 1.1, "infection": 0.7, "cirrhosis": 0.8, "sepsis": 0.6}, lasting=False
    ),
    "venous_thromboembolism": Disease(0.07, {"cancer": 1.6, "breathing": 1.4, "metastatic_cancer": 0.6}, lasting=False),
    "stroke": Disease(0.07, {"brain": 2.2, "vascular": 1.3, "age": 0.3, "atrial_fibrillation": 0.6}, lasting=False),
    "epilepsy": Disease(0.07, {"brain": 2.0, "substance": 1.0, "age": -0.4, "stroke": 0.4}, lasting=False),
    "encephalopathy": Disease(
        0.13, {"brain": 2.0, "age": 0.8, "infection": 0.5, "sepsis": 0.7, "cirrhosis": 0.7}, lasting=False
    ),
}  # fmt: skip

# What makes a stay severe: it brings patients to intensive care, lengthens the stay and kills.
_SEVERITY = {
    "infection": 0.4, "congestion": 0.2, "breathing": 0.4, "kidney": 0.3, "bleeding": 0.25, "brain": 0.4, "cancer": 0.3,
    "age": 0.35, "sepsis": 0.7, "respiratory_failure": 0.8, "acute_kidney_injury": 0.3, "stroke": 0.6,
    "metastatic_cancer": 0.6, "cirrhosis": 0.3, "pancreatitis": 0.3, "gastrointestinal_bleeding": 0.3,
}  # fmt: skip
# What keeps from going home alone.
_DEPENDENCE = {
    "age": 0.9, "brain": 0.7, "stroke": 1.0, "encephalopathy": 0.6, "osteoarthritis": 0.4, "heart_failure": 0.3,
    "infection": 0.3, "breathing": 0.2, "peripheral_artery_disease": 0.3,
}  # fmt: skip
_ICU_SHARE = 0.68
_ICU_WEIGHT = 0.9
_DEATH_SHARE = 0.075
_DEATH_WEIGHT = 1.3
# Mean number of stays that a patient has beyond the first.
_MORE_STAYS = 0.4
_PLACES = {
    "home": ("HOME",),
    "services": ("HOME HEALTH CARE",),
    "facility": (
        "SKILLED NURSING FACILITY",
        "SKILLED NURSING FACILITY",
        "REHAB",
        "CHRONIC/LONG TERM ACUTE CARE",
    ),
    "other": ("HOSPICE", "AGAINST ADVICE"),
    "unknown": ("",),
}
_RACES = {
    "WHITE": 0.62, "BLACK/AFRICAN AMERICAN": 0.16, "HISPANIC/LATINO - PUERTO RICAN": 0.04, "ASIAN": 0.04,
    "ASIAN - CHINESE": 0.02, "WHITE - OTHER EUROPEAN": 0.03, "PORTUGUESE": 0.01, "OTHER": 0.04, "UNKNOWN": 0.04,
}  # fmt: skip
# First year of the real years that an anchor year stands for, and its share of patients.
_YEAR_GROUPS = {2008: 0.24, 2011: 0.22, 2014: 0.22, 2017: 0.22, 2020: 0.10}
# From this (real) day on diagnoses are coded in ICD-10.
_ICD10_FROM = 2015.75
_DAY = 86_400
DRIVERS = (*CHRONIC, *ACUTE, "age", "male", *DISEASES, "severity")


@dataclass(frozen=True)
class Stays:
    """Some patients and all of their stays; arrays of N stays unless said otherwise.

    ``x`` [N, len(DRIVERS)] float: what drives all that is observed. A disease counts by how strong
    it is, 0 without. ``coded`` [N, len(DISEASES)] bool. Times are datetime64[s]. ``patient`` [N]
    points into the arrays of P patients: ``subject_id``, ``is_male``, ``anchor_age``,
    ``anchor_year``, ``year_group``, ``died_on`` (NaT: lives), ``race``.
    """

    patient: Array
    hadm_id: Array
    admit: Array
    discharge: Array
    died: Array
    icu_in: Array  # NaT: no intensive care
    icu_out: Array
    x: Array
    coded: Array
    icd_version: Array
    place: Array
    admission_type: Array
    insurance: Array
    marital_status: Array
    subject_id: Array
    is_male: Array
    anchor_age: Array
    anchor_year: Array
    year_group: Array
    died_on: Array
    race: Array
    language: Array

    def __len__(self) -> int:
        return len(self.patient)

    def driver(self, name: str) -> Array:
        """One column of ``x``."""
        return self.x[:, DRIVERS.index(name)]

    def score(self, weights: dict[str, float]) -> Array:
        """Weighted sum of drivers, [N]."""
        return weighted(self.x, weights)

    @property
    def hours(self) -> Array:
        """Length of the stays in hours."""
        return (self.discharge - self.admit).astype(float) / 3600


def weighted(x: Array, weights: dict[str, float]) -> Array:
    """Weighted sum of drivers.

    >>> x = np.zeros((1, len(DRIVERS))); x[0, DRIVERS.index("age")] = 2
    >>> weighted(x, {"age": 0.5, "copd": 3}).tolist()
    [1.0]
    """
    return x[:, [DRIVERS.index(name) for name in weights]] @ np.array(list(weights.values()))


def draw_stays(
    rng: np.random.Generator, n: int, first_stay: int, first_patient: int, seed: int
) -> Stays:
    """``n`` stays of as many patients as it takes; ids count on from the given numbers."""
    many = _stays_per_patient(rng, n)
    people = len(many)
    patient = np.repeat(np.arange(people), many)
    chronic, is_male, age = _people(rng, people)
    intercepts = _intercepts()
    x, has = _illness(rng, chronic, is_male, age, patient, intercepts)
    last = np.append(patient[1:] != patient[:-1], True)
    severity = x[:, -1]
    died = last & (rng.random(n) < logistic(intercepts["died"] + _DEATH_WEIGHT * severity))
    icu = rng.random(n) < logistic(intercepts["icu"] + _ICU_WEIGHT * severity)
    dependence = weighted(x, _DEPENDENCE)
    days = _length_of_stay(rng, x, dependence, died)

    anchor_year = rng.integers(2110, 2201, people)
    year_group = rng.choice(list(_YEAR_GROUPS), people, p=list(_YEAR_GROUPS.values()))
    admit, discharge = _times(rng, patient, many, anchor_year, days)
    years_on = admit.astype("datetime64[Y]").astype(int) + 1970 - anchor_year[patient]
    real_year = year_group[patient] + np.repeat(3 * rng.random(people), many) + years_on
    icu_in = admit + (rng.gamma(1.1, 4.0, n) * 3600).astype(int).astype("timedelta64[s]")
    icu_days = np.clip(
        rng.lognormal(0.75, 0.6, n) * (0.8 + 0.25 * np.clip(severity, -1, 3)), 0.6, None
    )
    icu_out = np.minimum(icu_in + (icu_days * _DAY).astype(int).astype("timedelta64[s]"), discharge)
    icu &= (icu_out - icu_in).astype(int) > 4 * 3600
    icu_in[~icu] = icu_out[~icu] = np.datetime64("NaT")

    return Stays(
        patient=patient,
        hadm_id=20_000_000 + scattered(first_stay + np.arange(n), seed),
        admit=admit,
        discharge=discharge,
        died=died,
        icu_in=icu_in,
        icu_out=icu_out,
        x=x,
        coded=has & (rng.random(has.shape) < 0.97),
        icd_version=np.where(real_year >= _ICD10_FROM, 10, 9),
        place=_places(rng, dependence, severity, died),
        admission_type=_admission_types(rng, severity),
        insurance=_insurance(rng, age[patient], x),
        marital_status=np.repeat(_marital_status(rng, age), many),
        subject_id=10_000_000 + scattered(first_patient + np.arange(people), seed),
        is_male=is_male,
        anchor_age=age.astype(int),
        anchor_year=anchor_year,
        year_group=year_group,
        died_on=_died_on(rng, patient, died, discharge, severity, last),
        race=rng.choice(list(_RACES), people, p=list(_RACES.values())),
        language=np.where(rng.random(people) < 0.9, "ENGLISH", "?"),
    )


def _stays_per_patient(rng: np.random.Generator, n: int) -> Array:
    many = 1 + np.minimum(rng.poisson(_MORE_STAYS, n), 4)
    many = many[: np.searchsorted(np.cumsum(many), n) + 1]
    many[-1] -= many.sum() - n
    return many


def _people(rng: np.random.Generator, people: int) -> tuple[Array, Array, Array]:
    burden = rng.standard_normal((people, 1))
    chronic = 0.3 * burden + np.sqrt(1 - 0.3**2) * rng.standard_normal((people, len(CHRONIC)))
    # The liver suffers from drink.
    liver = CHRONIC.index("liver")
    substance = CHRONIC.index("substance")
    chronic[:, liver] = 0.45 * chronic[:, substance] + np.sqrt(1 - 0.45**2) * chronic[:, liver]
    return (
        chronic,
        rng.random(people) < 0.52,
        np.clip(64 + 16 * rng.standard_normal(people), 18, 91),
    )


def _illness(
    rng: np.random.Generator,
    chronic: Array,
    is_male: Array,
    age: Array,
    patient: Array,
    intercepts: dict[str, float],
) -> tuple[Array, Array]:
    """Drivers [N, len(DRIVERS)] and presence of the diseases [N, len(DISEASES)] of the stays of
    ``patient`` [N].

    An intercept that is not there yet is found from these stays.
    """
    n = len(patient)
    x = np.zeros((n, len(DRIVERS)))
    x[:, : len(CHRONIC)] = chronic[patient]
    own = 0.35 * rng.standard_normal((n, 1)) + np.sqrt(1 - 0.35**2) * rng.standard_normal(
        (n, len(ACUTE))
    )
    for k, name in enumerate(ACUTE):
        part = 0.4 if name in _PREDISPOSED else 0.0
        source = x[:, DRIVERS.index(_PREDISPOSED.get(name, CHRONIC[0]))]
        x[:, DRIVERS.index(name)] = part * source + np.sqrt(1 - part**2) * own[:, k]
    x[:, DRIVERS.index("age")] = (age[patient] - 64) / 16
    x[:, DRIVERS.index("male")] = is_male[patient]

    of_patient = rng.random((len(chronic), len(DISEASES)))
    of_stay = rng.random((n, len(DISEASES)))
    has = np.zeros((n, len(DISEASES)), dtype=bool)
    for k, (name, disease) in enumerate(DISEASES.items()):
        score = weighted(x, disease.causes)
        if name not in intercepts:
            intercepts[name] = _intercept(score, disease.share)
        luck = of_patient[patient, k] if disease.lasting else of_stay[:, k]
        has[:, k] = luck < logistic(intercepts[name] + score)
        x[:, DRIVERS.index(name)] = has[:, k]
    # As a cause a disease counts by its presence; in what is observed, by how strong it is.
    x[:, [DRIVERS.index(name) for name in DISEASES]] *= 0.5 + rng.gamma(
        4.0, 0.125, (n, len(DISEASES))
    )
    x[:, -1] = weighted(x, _SEVERITY) - 0.6
    return x, has


@cache
def _intercepts() -> dict[str, float]:
    """Log-odds that give each disease, intensive care and death its share, found in a population of
    single stays.
    """
    rng = np.random.default_rng(0)
    chronic, is_male, age = _people(rng, 10_000)
    found: dict[str, float] = {}
    x, _ = _illness(rng, chronic, is_male, age, np.arange(len(age)), found)
    found["icu"] = _intercept(_ICU_WEIGHT * x[:, -1], _ICU_SHARE)
    # Only a patient's last stay can end in death.
    found["died"] = _intercept(_DEATH_WEIGHT * x[:, -1], _DEATH_SHARE * (1 + _MORE_STAYS))
    return found


def _intercept(score: Array, share: float) -> float:
    low = -100.0
    high = 100.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if logistic(middle + score).mean() > share else (middle, high)
    return low


def logistic(score: Array) -> Array:
    """Log-odds to a chance."""
    return 1 / (1 + np.exp(-score))


def as_times(times: Array) -> pl.Series:
    """Times of any resolution as a Polars column."""
    return pl.Series(times.astype("datetime64[ms]"))


def _length_of_stay(rng: np.random.Generator, x: Array, dependence: Array, died: Array) -> Array:
    log_days = 1.4 + 0.3 * x[:, -1] + 0.12 * dependence + 0.55 * rng.standard_normal(len(x))
    return np.clip(np.exp(log_days) * np.where(died, rng.uniform(0.3, 1.1, len(x)), 1), 0.3, 45)


def _times(
    rng: np.random.Generator, patient: Array, many: Array, anchor_year: Array, days: Array
) -> tuple[Array, Array]:
    """Admission and discharge [N]: a patient's stays follow one another, the first in the anchor
    year.
    """
    minutes = np.maximum(days * 1440, 60).astype(int)
    gaps = (1440 * (3 + rng.exponential(200, len(patient)))).astype(int)
    is_first = np.insert(patient[1:] != patient[:-1], 0, True)
    year = (anchor_year[patient] - 1970).astype("datetime64[Y]").astype("datetime64[s]")
    gaps[is_first] = rng.integers(0, 365 * 1440, is_first.sum())
    begin = np.cumsum(gaps + np.insert(minutes[:-1], 0, 0))
    # The running sum begins anew with each patient.
    begin -= np.repeat((begin - gaps)[is_first], many)
    admit = year + (begin * 60).astype("timedelta64[s]")
    return admit, admit + (minutes * 60).astype("timedelta64[s]")


def _places(rng: np.random.Generator, dependence: Array, severity: Array, died: Array) -> Array:
    scores = {
        "home": 1.1 - 0.55 * dependence,
        "services": 0.5 + 0.15 * dependence + 0.1 * severity,
        "facility": -0.45 + 0.75 * dependence + 0.25 * severity,
        "other": -1.2 + 0.4 * severity,
        "unknown": np.full(len(died), -2.0),
    }
    # The highest of scores with Gumbel noise is a draw from their softmax.
    chosen = np.argmax(
        np.column_stack(list(scores.values())) + rng.gumbel(size=(len(died), len(scores))), axis=1
    )
    lists = [_PLACES[name] for name in scores]
    return np.array([
        "DIED" if dead else lists[k][int(u * len(lists[k]))]
        for dead, k, u in zip(died, chosen, rng.random(len(died)), strict=True)
    ])  # fmt: skip


def _admission_types(rng: np.random.Generator, severity: Array) -> Array:
    kinds = {
        "EW EMER.": (0.37, 0.4), "OBSERVATION ADMIT": (0.17, 0.0), "URGENT": (0.14, 0.3), "EU OBSERVATION": (0.08,
            -0.5),
        "SURGICAL SAME DAY ADMISSION": (0.1, -0.8), "DIRECT EMER.": (0.06, 0.2), "ELECTIVE": (0.08, -0.8),
    }  # fmt: skip
    scores = np.column_stack([np.log(share) + slope * severity for share, slope in kinds.values()])
    return np.array(list(kinds))[np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)]


def _insurance(rng: np.random.Generator, age: Array, x: Array) -> Array:
    u = rng.random(len(age))
    is_poor = rng.random(len(age)) < logistic(
        -1.6 + 0.7 * weighted(x, {"substance": 1.0, "mood": 0.5})
    )
    return np.where((age >= 65) & (u < 0.85), "Medicare", np.where(is_poor, "Medicaid", "Other"))


def _marital_status(rng: np.random.Generator, age: Array) -> Array:
    u = rng.random(len(age))
    is_old = age > 70
    status = np.where(u < 0.45, "MARRIED", np.where(u < np.where(is_old, 0.6, 0.85), "SINGLE",
                      np.where(u < np.where(is_old, 0.7, 0.95), "DIVORCED", "WIDOWED")))  # fmt: skip
    return np.where(rng.random(len(age)) < 0.04, "", status)


def _died_on(
    rng: np.random.Generator,
    patient: Array,
    died: Array,
    discharge: Array,
    severity: Array,
    last: Array,
) -> Array:
    """Day of death of each patient: in hospital, or within a year after the last stay."""
    after = rng.random(len(patient)) < logistic(-2.6 + 0.7 * severity)
    later = discharge + (_DAY * rng.integers(2, 365, len(patient))).astype("timedelta64[s]")
    day = np.where(died, discharge, np.where(after, later, np.datetime64("NaT"))).astype(
        "datetime64[D]"
    )
    return day[last]


def scattered(numbers: Array, seed: int) -> Array:
    """Ids of at most seven digits, all different, in no order that tells anything."""
    return (numbers * 6_364_137 + 1_000_003 * seed + 271_828) % 9_999_991
