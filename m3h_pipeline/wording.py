"""Numbers, counts and names as people read them: in reports, checks and on the last screen.

The privacy rule of all of these lies here, below everything that shows patients: a group of fewer
than `MIN_GROUP_SIZE` patients is never counted out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

MIN_GROUP_SIZE = 10
NO_VALUE = "–"
# The files hold so many digits.
_MOST_DIGITS = 6

_NAMES = {"copd": "COPD", "timeseries": "Time series"}


def is_number(value: float | None) -> bool:
    """Whether there is a number: neither null nor NaN."""
    return value is not None and math.isfinite(value)


def format_number(value: float | None, *, sign: bool = False) -> str:
    """Three digits with a real minus sign, four where three would hide that it isn't 0; a dash for
    no number.

    >>> format_number(0.81249), format_number(0.0), format_number(None)
    ('0.812', '0.000', '–')
    >>> format_number(-0.0004, sign=True), format_number(0.012, sign=True)
    ('−0.0004', '+0.012')
    """
    if value is None or not math.isfinite(value):
        return NO_VALUE
    digits = 3 if abs(value) >= 0.0005 or abs(value) < 0.00005 else 4
    return _with_sign(value, digits, sign)


def _with_sign(value: float, digits: int, sign: bool) -> str:
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    if value < 0:
        return f"−{text}"
    return f"+{text}" if sign else text


def format_interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Both ends of an interval, with as many digits as tell them apart; empty where an end is
    missing.

    One without a width is no interval: the value was the same in every resample, as where two
    models agree.

    >>> format_interval(-0.01, 0.02, sign=True), format_interval(0.99921, 0.99933)
    ('−0.010 to +0.020', '0.9992 to 0.9993')
    >>> format_interval(0.0, 0.0)
    'in every resample'
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if low == high:
        return "in every resample"
    ends = (format_number(low, sign=sign), format_number(high, sign=sign))
    for digits in range(4, _MOST_DIGITS + 1):
        if ends[0] != ends[1]:
            break
        ends = (_with_sign(low, digits, sign), _with_sign(high, digits, sign))
    return f"{ends[0]} to {ends[1]}"


def format_count(patients: int | None) -> str:
    """A count of patients, with small ones hidden; ``None`` is a count that was too small to pass
    on.

    >>> format_count(1234), format_count(9), format_count(None)
    ('1,234', '<10', '<10')
    """
    if patients is None or patients < MIN_GROUP_SIZE:
        return f"<{MIN_GROUP_SIZE}"
    return f"{patients:,}"


def format_part(patients: int | None, whole: int | None) -> str:
    """A count out of a whole: hidden where it, or what it leaves of the whole, is small.

    >>> format_part(40, 100), format_part(4, 100), format_part(96, 100), format_part(100, 100)
    ('40', '<10', '>90', '100')
    """
    if (
        patients is None
        or whole is None
        or patients < MIN_GROUP_SIZE
        or patients == whole
        or whole - patients >= MIN_GROUP_SIZE
    ):
        return format_count(patients)
    return f">{whole - MIN_GROUP_SIZE:,}"


def format_share(patients: int, whole: int) -> str:
    """The same as a percentage, hidden where the count is.

    >>> format_share(40, 100), format_share(4, 100), format_share(100, 100), format_share(0, 100)
    ('40%', '<10%', '100%', '0%')
    """
    if whole == 0:
        return NO_VALUE
    if patients in (0, whole):
        return f"{100 * patients // whole}%"
    hidden = format_part(patients, whole)
    if hidden[0] == "<":
        return f"<{math.ceil(100 * MIN_GROUP_SIZE / whole)}%"
    if hidden[0] == ">":
        return f">{math.floor(100 * (whole - MIN_GROUP_SIZE) / whole)}%"
    return f"{100 * patients / whole:.0f}%"


def format_parts(groups: Mapping[str, int]) -> dict[str, str]:
    """Counts of groups whose total is shown: one small group alone would follow from the others.

    >>> format_parts({"train": 900, "valid": 40, "test": 4})
    {'train': '900', 'valid': '≥10', 'test': '<10'}
    """
    shown = {name: format_count(patients) for name, patients in groups.items()}
    large = [name for name, patients in groups.items() if patients >= MIN_GROUP_SIZE]
    if len(large) == len(groups) - 1 and large:
        shown[min(large, key=lambda name: groups[name])] = f"≥{MIN_GROUP_SIZE}"
    return shown


def format_name(identifier: str) -> str:
    """A task's, department's or table's name in plain words.

    >>> format_name("heart_failure"), format_name("copd")
    ('Heart failure', 'COPD')
    """
    text = identifier.replace("_", " ").strip()
    return _NAMES.get(identifier, text[:1].upper() + text[1:])


def format_metric(identifier: str) -> str:
    """A metric's name.

    >>> format_metric("R2"), format_metric("macro AUROC")
    ('R²', 'macro AUROC')
    """
    return "R²" if identifier == "R2" else identifier


def join_words(words: list[str]) -> str:
    """Words joined as in a sentence.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def pluralize(amount: int, noun: str) -> str:
    """A number with its noun.

    >>> pluralize(1, "task"), pluralize(0, "task")
    ('1 task', '0 tasks')
    """
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")
