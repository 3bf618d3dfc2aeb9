"""Numbers, counts and names as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

FEWEST = 10  # A smaller group of patients is never counted out.
NOTHING = "–"
# The files hold so many digits.
_MOST_DIGITS = 6

_NAMES = {"copd": "COPD", "timeseries": "Time series"}


def known(value: float | None) -> bool:
    """Whether there is a number: neither null nor NaN."""
    return value is not None and math.isfinite(value)


def number(value: float | None, *, sign: bool = False) -> str:
    """Three digits with a real minus sign, four where three would hide that it isn't 0; a dash for
    no number.

    >>> number(0.81249), number(-0.0004, sign=True), number(0.012, sign=True), number(0.0), number(None)
    ('0.812', '−0.0004', '+0.012', '0.000', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return _written(value, 3 if abs(value) >= 0.0005 or abs(value) < 0.00005 else 4, sign)


def _written(value: float, digits: int, sign: bool) -> str:
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Both ends of an interval, with as many digits as tell them apart; empty where an end is
    missing.

    One without a width is no interval: the value was the same in every resample, as where two
    models agree.

    >>> interval(-0.01, 0.02, sign=True), interval(0.99921, 0.99933), interval(0.0, 0.0)
    ('−0.010 to +0.020', '0.9992 to 0.9993', 'in every resample')
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if low == high:
        return "in every resample"
    ends = number(low, sign=sign), number(high, sign=sign)
    for digits in range(4, _MOST_DIGITS + 1):
        if ends[0] != ends[1]:
            break
        ends = _written(low, digits, sign), _written(high, digits, sign)
    return f"{ends[0]} to {ends[1]}"


def count(patients: int | None) -> str:
    """A count of patients, with small ones hidden; ``None`` is a count that was too small to pass
    on.

    >>> count(1234), count(9), count(None)
    ('1,234', '<10', '<10')
    """
    return f"<{FEWEST}" if patients is None or patients < FEWEST else f"{patients:,}"


def part(patients: int | None, whole: int | None) -> str:
    """A count out of a whole: hidden where it, or what it leaves of the whole, is small.

    >>> part(40, 100), part(4, 100), part(96, 100), part(100, 100)
    ('40', '<10', '>90', '100')
    """
    if (
        patients is None
        or whole is None
        or patients < FEWEST
        or patients == whole
        or whole - patients >= FEWEST
    ):
        return count(patients)
    return f">{whole - FEWEST:,}"


def share(patients: int, whole: int) -> str:
    """The same as a percentage, hidden where the count is.

    >>> share(40, 100), share(4, 100), share(100, 100), share(0, 100)
    ('40%', '<10%', '100%', '0%')
    """
    if whole == 0:
        return NOTHING
    if patients in (0, whole):
        return f"{100 * patients // whole}%"
    hidden = part(patients, whole)
    if hidden[0] == "<":
        return f"<{math.ceil(100 * FEWEST / whole)}%"
    if hidden[0] == ">":
        return f">{math.floor(100 * (whole - FEWEST) / whole)}%"
    return f"{100 * patients / whole:.0f}%"


def parts(groups: Mapping[str, int]) -> dict[str, str]:
    """Counts of groups whose total is shown: one small group alone would follow from the others.

    >>> parts({"train": 900, "valid": 40, "test": 4})
    {'train': '900', 'valid': '≥10', 'test': '<10'}
    """
    shown = {name: count(patients) for name, patients in groups.items()}
    large = [name for name, patients in groups.items() if patients >= FEWEST]
    if len(large) == len(groups) - 1 and large:
        shown[min(large, key=lambda name: groups[name])] = f"≥{FEWEST}"
    return shown


def name(identifier: str) -> str:
    """A task's, department's or table's name in plain words.

    >>> name("heart_failure"), name("copd")
    ('Heart failure', 'COPD')
    """
    text = identifier.replace("_", " ").strip()
    return _NAMES.get(identifier, text[:1].upper() + text[1:])


def metric(identifier: str) -> str:
    """A metric's name.

    >>> metric("R2"), metric("macro AUROC")
    ('R²', 'macro AUROC')
    """
    return "R²" if identifier == "R2" else identifier


def listing(words: list[str]) -> str:
    """Words joined as in a sentence.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def plural(amount: int, noun: str) -> str:
    """A number with its noun.

    >>> plural(1, "task"), plural(0, "task")
    ('1 task', '0 tasks')
    """
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")
