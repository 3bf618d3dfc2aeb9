"""Patients and stays: who they are, what they have, how ill they are, how it ends.

Everything is drawn from a few latent factors. A disease's intercept is set so that the disease is
as frequent as its ``share`` says. What can be observed (measurements, notes, images) follows the
factors and the diseases alike, so no observation decides a label.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from m3h_pipeline.demo.diseases import (
    ACUTE,
    CHRONIC,
    DEPENDENCE,
    DISEASES,
    DRIVERS,
    PREDISPOSED,
    SEVERITY,
)
from m3h_pipeline.demo.stays import Array, Stays, logistic, scatter_ids, weigh_drivers

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
    "WHITE": 0.62,
    "BLACK/AFRICAN AMERICAN": 0.16,
    "HISPANIC/LATINO - PUERTO RICAN": 0.04,
    "ASIAN": 0.04,
    "ASIAN - CHINESE": 0.02,
    "WHITE - OTHER EUROPEAN": 0.03,
    "PORTUGUESE": 0.01,
    "OTHER": 0.04,
    "UNKNOWN": 0.04,
}

# First year of the real years that an anchor year stands for, and its share of patients.
_YEAR_GROUPS = {2008: 0.24, 2011: 0.22, 2014: 0.22, 2017: 0.22, 2020: 0.10}

# From this (real) day on diagnoses are coded in ICD-10.
_ICD10_FROM = 2015.75

_DAY = 86_400


def draw_stays(
    rng: np.random.Generator, n: int, first_stay: int, first_patient: int, seed: int
) -> Stays:
    """``n`` stays of as many patients as it takes; ids count on from the given numbers."""
    many = _draw_stays_per_patient(rng, n)
    people = len(many)
    patient = np.repeat(np.arange(people), many)
    chronic, is_male, age = _draw_people(rng, people)
    intercepts = _find_intercepts()
    x, has = _draw_illness(rng, chronic, is_male, age, patient, intercepts)
    last = np.append(patient[1:] != patient[:-1], True)
    severity = x[:, -1]
    died = last & (rng.random(n) < logistic(intercepts["died"] + _DEATH_WEIGHT * severity))
    icu = rng.random(n) < logistic(intercepts["icu"] + _ICU_WEIGHT * severity)
    dependence = weigh_drivers(x, DEPENDENCE)
    days = _draw_length_of_stay(rng, x, dependence, died)

    anchor_year = rng.integers(2110, 2201, people)
    year_group = rng.choice(list(_YEAR_GROUPS), people, p=list(_YEAR_GROUPS.values()))
    admit, discharge = _draw_times(rng, patient, many, anchor_year, days)
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
        hadm_id=20_000_000 + scatter_ids(first_stay + np.arange(n), seed),
        admit=admit,
        discharge=discharge,
        died=died,
        icu_in=icu_in,
        icu_out=icu_out,
        x=x,
        coded=has & (rng.random(has.shape) < 0.97),
        icd_version=np.where(real_year >= _ICD10_FROM, 10, 9),
        place=_draw_places(rng, dependence, severity, died),
        admission_type=_draw_admission_types(rng, severity),
        insurance=_draw_insurance(rng, age[patient], x),
        marital_status=np.repeat(_draw_marital_status(rng, age), many),
        subject_id=10_000_000 + scatter_ids(first_patient + np.arange(people), seed),
        is_male=is_male,
        anchor_age=age.astype(int),
        anchor_year=anchor_year,
        year_group=year_group,
        died_on=_draw_days_of_death(rng, patient, died, discharge, severity, last),
        race=rng.choice(list(_RACES), people, p=list(_RACES.values())),
        language=np.where(rng.random(people) < 0.9, "ENGLISH", "?"),
    )


def _draw_stays_per_patient(rng: np.random.Generator, n: int) -> Array:
    many = 1 + np.minimum(rng.poisson(_MORE_STAYS, n), 4)
    many = many[: np.searchsorted(np.cumsum(many), n) + 1]
    many[-1] -= many.sum() - n
    return many


def _draw_people(rng: np.random.Generator, people: int) -> tuple[Array, Array, Array]:
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


def _draw_illness(
    rng: np.random.Generator,
    chronic: Array,
    is_male: Array,
    age: Array,
    patient: Array,
    intercepts: dict[str, float],
) -> tuple[Array, Array]:
    """Drivers [N, len(DRIVERS)] and presence of the diseases [N, len(DISEASES)] of the stays of
    ``patient`` [N].

    An intercept that is not there yet is intercepts from these stays.
    """
    n = len(patient)
    x = np.zeros((n, len(DRIVERS)))
    x[:, : len(CHRONIC)] = chronic[patient]
    own = 0.35 * rng.standard_normal((n, 1)) + np.sqrt(1 - 0.35**2) * rng.standard_normal(
        (n, len(ACUTE))
    )
    for k, name in enumerate(ACUTE):
        part = 0.4 if name in PREDISPOSED else 0.0
        source = x[:, DRIVERS.index(PREDISPOSED.get(name, CHRONIC[0]))]
        x[:, DRIVERS.index(name)] = part * source + np.sqrt(1 - part**2) * own[:, k]
    x[:, DRIVERS.index("age")] = (age[patient] - 64) / 16
    x[:, DRIVERS.index("male")] = is_male[patient]

    of_patient = rng.random((len(chronic), len(DISEASES)))
    of_stay = rng.random((n, len(DISEASES)))
    has = np.zeros((n, len(DISEASES)), dtype=bool)
    for k, (name, disease) in enumerate(DISEASES.items()):
        score = weigh_drivers(x, disease.causes)
        if name not in intercepts:
            intercepts[name] = _find_intercept(score, disease.share)
        luck = of_patient[patient, k] if disease.lasting else of_stay[:, k]
        has[:, k] = luck < logistic(intercepts[name] + score)
        x[:, DRIVERS.index(name)] = has[:, k]
    # As a cause a disease counts by its presence; in what is observed, by how strong it is.
    x[:, [DRIVERS.index(name) for name in DISEASES]] *= 0.5 + rng.gamma(
        4.0, 0.125, (n, len(DISEASES))
    )
    x[:, -1] = weigh_drivers(x, SEVERITY) - 0.6
    return x, has


@cache
def _find_intercepts() -> dict[str, float]:
    """Log-odds that give each disease, intensive care and death its share, as found in a population
    of single stays.
    """
    rng = np.random.default_rng(0)
    chronic, is_male, age = _draw_people(rng, 10_000)
    intercepts: dict[str, float] = {}
    x, _ = _draw_illness(rng, chronic, is_male, age, np.arange(len(age)), intercepts)
    intercepts["icu"] = _find_intercept(_ICU_WEIGHT * x[:, -1], _ICU_SHARE)
    # Only a patient's last stay can end in death.
    intercepts["died"] = _find_intercept(_DEATH_WEIGHT * x[:, -1], _DEATH_SHARE * (1 + _MORE_STAYS))
    return intercepts


def _find_intercept(score: Array, share: float) -> float:
    low = -100.0
    high = 100.0
    for _ in range(50):
        middle = (low + high) / 2
        if logistic(middle + score).mean() > share:
            high = middle
        else:
            low = middle
    return low


def _draw_length_of_stay(
    rng: np.random.Generator, x: Array, dependence: Array, died: Array
) -> Array:
    log_days = 1.4 + 0.3 * x[:, -1] + 0.12 * dependence + 0.55 * rng.standard_normal(len(x))
    return np.clip(np.exp(log_days) * np.where(died, rng.uniform(0.3, 1.1, len(x)), 1), 0.3, 45)


def _draw_times(
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


def _draw_places(
    rng: np.random.Generator, dependence: Array, severity: Array, died: Array
) -> Array:
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
    return np.array(
        [
            "DIED" if dead else lists[k][int(u * len(lists[k]))]
            for dead, k, u in zip(died, chosen, rng.random(len(died)), strict=True)
        ]
    )


def _draw_admission_types(rng: np.random.Generator, severity: Array) -> Array:
    kinds = {
        "EW EMER.": (0.37, 0.4),
        "OBSERVATION ADMIT": (0.17, 0.0),
        "URGENT": (0.14, 0.3),
        "EU OBSERVATION": (0.08, -0.5),
        "SURGICAL SAME DAY ADMISSION": (0.1, -0.8),
        "DIRECT EMER.": (0.06, 0.2),
        "ELECTIVE": (0.08, -0.8),
    }
    scores = np.column_stack([np.log(share) + slope * severity for share, slope in kinds.values()])
    return np.array(list(kinds))[np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)]


def _draw_insurance(rng: np.random.Generator, age: Array, x: Array) -> Array:
    u = rng.random(len(age))
    is_poor = rng.random(len(age)) < logistic(
        -1.6 + 0.7 * weigh_drivers(x, {"substance": 1.0, "mood": 0.5})
    )
    return np.where((age >= 65) & (u < 0.85), "Medicare", np.where(is_poor, "Medicaid", "Other"))


def _draw_marital_status(rng: np.random.Generator, age: Array) -> Array:
    u = rng.random(len(age))
    is_old = age > 70
    status = np.where(
        u < 0.45,
        "MARRIED",
        np.where(
            u < np.where(is_old, 0.6, 0.85),
            "SINGLE",
            np.where(u < np.where(is_old, 0.7, 0.95), "DIVORCED", "WIDOWED"),
        ),
    )
    return np.where(rng.random(len(age)) < 0.04, "", status)


def _draw_days_of_death(
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
