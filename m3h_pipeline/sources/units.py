"""Units of the signals: other spellings, and other units with a known factor, to the unit of
signals.yaml.

What is not listed stays as it is, and the contract quarantines it.
"""

from __future__ import annotations

from collections.abc import Iterable

from m3h_pipeline.sources.tasks_file import Signal

# Spellings of one and the same unit, as the macro normal_unit writes them: lower case, no spaces, u
# for the micro sign.
_SPELLINGS = {
    "bpm": ["beats/min", "/min"],
    "breaths/min": ["insp/min", "bpm", "/min", "resp/min"],
    "mEq/L": ["mmol/l"],
    "K/uL": [
        "10^3/ul",
        "10*3/ul",
        "10e3/ul",
        "x10e3/ul",
        "thousand/ul",
        "k/mm3",
        "10^9/l",
        "10*9/l",
        "10e9/l",
    ],
    "m/uL": [
        "10^6/ul",
        "10*6/ul",
        "10e6/ul",
        "x10e6/ul",
        "million/ul",
        "10^12/l",
        "10*12/l",
        "10e12/l",
    ],
    "ug/mL": ["mcg/ml", "mg/l"],
}
# 1 of that unit is so many of the canonical one. Molar masses: glucose 180.16, creatinine 113.12,
# nitrogen 28.01 a molecule of urea, magnesium 24.305, phosphorus 30.974, calcium 40.078 g/mol;
# haemoglobin 16.114 g a mmol of monomer.
_FACTORS = {
    "glucose": {"mmol/l": 18.016},
    "creatinine": {"umol/l": 0.011312},
    "urea_nitrogen": {"mmol/l": 2.801},
    "magnesium": {"mmol/l": 2.4305, "meq/l": 1.21525},
    "phosphate": {"mmol/l": 3.0974},
    "calcium_total": {"mmol/l": 4.0078, "meq/l": 2.0039},
    "hemoglobin": {"g/l": 0.1, "mmol/l": 1.6114},
    "hematocrit": {"l/l": 100.0},
    # MIMIC-IV writes both; a percentage of the cell's volume is the same number.
    "mchc": {"%": 1.0, "g/l": 0.1},
    "platelets": {"#/ul": 0.001},
    "white_blood_cells": {"#/ul": 0.001},
}
# 1 of the first unit is so many of the second, whatever is measured, as `unit_key` writes them.
_SAME_QUANTITY = {
    ("g/l", "g/dl"): 0.1,
    ("ug/ml", "mg/dl"): 0.1,
    ("ml/min", "ml/hour"): 60.0,
    ("ug/min", "ug/hour"): 60.0,
    ("mg/min", "mg/hour"): 60.0,
    ("units/min", "units/hour"): 60.0,
    ("ug/kg/min", "ug/kg/hour"): 60.0,
    ("mg/kg/min", "mg/kg/hour"): 60.0,
    ("mg/hour", "ug/hour"): 1000.0,
    ("mg/min", "ug/min"): 1000.0,
    ("mg/kg/hour", "ug/kg/hour"): 1000.0,
    ("mg/kg/min", "ug/kg/min"): 1000.0,
}
# No unit at all, in the ways that MIMIC-IV and its derivatives write it.
_NONE = ["", "unk", "none"]


def unit_rules(signals: Iterable[Signal]) -> list[tuple[str, str, float]]:
    """(code, spelling, factor): every unit that is understood for each signal.

    >>> rules = {(code, unit): factor for code, unit, factor in unit_rules([
    ...     Signal("glucose", "lab", "mg/dL", (50931,), 5, 2500)])}
    >>> rules[("glucose", "mg/dl")], rules[("glucose", "")], rules[("glucose", "mmol/l")]
    (1.0, 1.0, 18.016)
    """
    rules = {}
    for signal in signals:
        for spelling in (signal.unit.lower(), *_NONE, *_SPELLINGS.get(signal.unit, [])):
            rules[signal.code, spelling] = 1.0
        for unit, factor in _FACTORS.get(signal.code, {}).items():
            rules[signal.code, unit] = factor
    return [(code, unit, factor) for (code, unit), factor in rules.items()]


def unit_key(unit: str) -> str:
    """A unit but for its spelling, to tell whether two are the same; empty where there is none.

    >>> unit_key("mg/dl") == unit_key(" mg / dL"), unit_key("K/uL") == unit_key("10^9/L")
    (True, True)
    >>> unit_key("None")
    ''
    """
    plain = (
        unit.lower()
        .replace(" ", "")
        .replace("\u00b5", "u")
        .replace("\u03bc", "u")
        .replace("mcg", "ug")
    )
    return "" if plain in _NONE else _SAME.get(plain, plain)


def find_factor(unit: str, canonical: str) -> float | None:
    """How much of the canonical unit 1 of a unit is, whatever is measured; no unit at all is the
    canonical one. None where that depends on what is measured, or is not known.

    >>> find_factor("mL/min", "mL/hour"), find_factor("MG / DL", "mg/dL"), find_factor("", "mg/dL")
    (60.0, 1.0, 1.0)
    >>> find_factor("mg/dL", "mmol/L")
    """
    key = unit_key(unit)
    canonical_key = unit_key(canonical)
    if key in ("", canonical_key):
        return 1.0
    if (canonical_key, key) in _SAME_QUANTITY:
        return 1 / _SAME_QUANTITY[canonical_key, key]
    return _SAME_QUANTITY.get((key, canonical_key))


_SAME = {
    spelling.replace("mcg", "ug"): unit.lower()
    for unit, spellings in reversed(_SPELLINGS.items())
    for spelling in spellings
}
