"""Some patients and all of their stays, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from m3h_pipeline.demo.diseases import DRIVERS

Array = np.ndarray[Any, Any]


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
        return weigh_drivers(self.x, weights)

    @property
    def hours(self) -> Array:
        """Length of the stays in hours."""
        return (self.discharge - self.admit).astype(float) / 3600


def weigh_drivers(x: Array, weights: dict[str, float]) -> Array:
    """Weighted sum of drivers.

    >>> x = np.zeros((1, len(DRIVERS))); x[0, DRIVERS.index("age")] = 2
    >>> weigh_drivers(x, {"age": 0.5, "copd": 3}).tolist()
    [1.0]
    """
    return x[:, [DRIVERS.index(name) for name in weights]] @ np.array(list(weights.values()))


def logistic(score: Array) -> Array:
    """Log-odds to a chance."""
    return 1 / (1 + np.exp(-score))


def to_times(times: Array) -> pl.Series:
    """Times of any resolution as a Polars column."""
    return pl.Series(times.astype("datetime64[ms]"))


def scatter_ids(numbers: Array, seed: int) -> Array:
    """Ids of at most seven digits, all different, in no order that tells anything."""
    return (numbers * 6_364_137 + 1_000_003 * seed + 271_828) % 9_999_991
