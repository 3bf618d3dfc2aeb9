"""Factors between units in use: those of any quantity, and those of one substance by its molar
mass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Conversion:
    """From a unit to one with larger numbers: times ``factor``, plus ``offset``.

    ``only_within``: where it is not a matter of proportion, the range of the smaller numbers in
    which it makes sense; ``rank``: 0 where the code's name speaks for it, 1 for powers of ten, 2
    for other quantities, 3 for substances of which nothing speaks.
    """

    factor: float
    words: str
    offset: float = 0.0
    only_within: tuple[float, float] | None = None
    rank: int = 1

    @property
    def is_named(self) -> bool:
        """Whether the code's name speaks for it."""
        return self.rank == 0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The values in the other unit."""
        return values * self.factor + self.offset


def _proportional(factor: float, one: str, other: str, substance: str = "") -> Conversion:
    return Conversion(
        factor, f"between {one} and {other}" + (f" of {substance}" if substance else "")
    )


_POWERS_OF_TEN = (
    Conversion(10.0, "a power of ten, as between g/dL and g/L"),
    Conversion(100.0, "a power of ten, as between a fraction and a percentage"),
    Conversion(1e3, "a power of ten, as between g and mg"),
    Conversion(1e4, "a power of ten"),
    Conversion(1e6, "a power of ten, as between g and ug"),
)
# Of whatever is no substance's concentration, each with the names that speak for it.
_GENERAL = (
    ("weight|^wt$|mass", _proportional(2.20462, "kg", "lb")),
    ("height|length|circumf|waist", _proportional(2.54, "inches", "cm")),
    ("birth.?weight", _proportional(28.3495, "ounces", "g")),
    ("birth.?weight", _proportional(453.592, "lb", "g")),
    ("press|bp|^map$|cvp|pa?c?o2|kpa|mmhg", _proportional(7.50062, "kPa", "mmHg")),
    (
        "rate|flow|time|duration|^los",
        _proportional(60.0, "minutes", "seconds, or hours and minutes"),
    ),
    (
        "temp",
        Conversion(1.8, "between degrees Celsius and Fahrenheit", 32.0, only_within=(20.0, 46.0)),
    ),
)
# Substance -> (names of codes that mean it, conversions). Numbers are molar masses divided by the
# units' scale: glucose 180.16, creatinine 113.12, urea 60.06 (nitrogen 28.01), bilirubin 584.66,
# lactate 90.08 g/mol and so on.
_SUBSTANCES: dict[str, tuple[str, tuple[Conversion, ...]]] = {
    "glucose": (
        "gluc|^glu$|blood.?sugar|^bg$",
        (_proportional(18.016, "mmol/L", "mg/dL", "glucose"),),
    ),
    "creatinine": ("creat|^cr$|^crea$", (_proportional(88.40, "mg/dL", "umol/L", "creatinine"),)),
    "urea": (
        "urea|^bun$",
        (
            _proportional(2.801, "mmol/L of urea", "mg/dL of its nitrogen"),
            _proportional(2.144, "mg/dL of its nitrogen", "mg/dL of urea"),
            _proportional(6.006, "mmol/L", "mg/dL", "urea"),
        ),
    ),
    "bilirubin": ("bili", (_proportional(17.104, "mg/dL", "umol/L", "bilirubin"),)),
    "calcium": (
        "calc|^ca$",
        (
            _proportional(4.0078, "mmol/L", "mg/dL", "calcium"),
            _proportional(2.0039, "meq/L", "mg/dL", "calcium"),
        ),
    ),
    "magnesium": ("magnes|^mg$", (_proportional(2.4305, "mmol/L", "mg/dL", "magnesium"),)),
    "phosphate": ("phos", (_proportional(3.0974, "mmol/L", "mg/dL", "phosphate"),)),
    "lactate": ("lact", (_proportional(9.008, "mmol/L", "mg/dL", "lactate"),)),
    "cholesterol": ("chol|hdl|ldl", (_proportional(38.665, "mmol/L", "mg/dL", "cholesterol"),)),
    "triglycerides": ("trig", (_proportional(88.57, "mmol/L", "mg/dL", "triglycerides"),)),
    "uric acid": ("uric|urate", (_proportional(59.485, "mg/dL", "umol/L", "uric acid"),)),
    "iron": ("iron|^fe$", (_proportional(5.5845, "umol/L", "ug/dL", "iron"),)),
    "cortisol": ("cortisol", (_proportional(27.588, "ug/dL", "nmol/L", "cortisol"),)),
    "thyroxine": ("thyrox|t4", (_proportional(12.871, "ng/dL", "pmol/L", "thyroxine"),)),
    "vitamin D": ("vit.*d|25.?oh", (_proportional(2.496, "ng/mL", "nmol/L", "vitamin D"),)),
    "HbA1c": (
        "a1c",
        (Conversion(10.929, "between % and mmol/mol of HbA1c", -23.5, only_within=(4.0, 16.0)),),
    ),
}

# What is no substance, by its name.
_QUANTITY = re.compile("weight|height|length|temp|press|rate|flow|volume|bp$|^hr$|score|age")


def list_conversions(code: str) -> list[Conversion]:
    """What may lie between two units of a code, most likely first: of the substance that it names,
    else of any.

    >>> [list_conversions(code)[0].factor for code in ("Glucose (POC)", "lab_17", "Body weight")]
    [18.016, 10.0, 2.20462]
    """
    name = code.lower()
    substances = [
        conversions for pattern, conversions in _SUBSTANCES.values() if re.search(pattern, name)
    ]
    if substances:
        return [*_rank(chain.from_iterable(substances), 0), *_POWERS_OF_TEN]
    general = [
        replace(conversion, rank=0 if re.search(pattern, name) else 2)
        for pattern, conversion in _GENERAL
    ]
    # Of a code that names no quantity it could be any substance.
    guesses: list[Conversion] = []
    if not _QUANTITY.search(name):
        of_substances = [conversions for _, conversions in _SUBSTANCES.values()]
        guesses = _rank(chain.from_iterable(of_substances), 3)
    return sorted([*_POWERS_OF_TEN, *general, *guesses], key=lambda conversion: conversion.rank)


def _rank(conversions: Iterable[Conversion], rank: int) -> list[Conversion]:
    return [replace(conversion, rank=rank) for conversion in conversions]
