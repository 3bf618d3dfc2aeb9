"""Units as the rows name them: more than one under a code, of which one can't be converted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from m3h_pipeline.contracts.plausibility.findings import Finding, rows_of
from m3h_pipeline.sources.units import unit_key
from m3h_pipeline.wording import MIN_GROUP_SIZE, join_words

# A file in which units are free text may hold hundreds.
_NAMED = 5

_PREFIXED = "|".join(("g", "mol", "l", "eq", "iu", "u", "osm", "pa", "m", "s", "cal", "j"))
_OTHERS = "|".join((
    "%", "mmhg", "cmh2o", "torr", "bar", "lbs?", "oz", "in", "inch", "inches", "ft", "feet", "min", "h", "hr", "hours?",
    "days?", "sec", "bpm", "beats", "breaths", "insp", "score", "count", "points?", "ratio", "deg", "°?[cf]", "deg[cf]",
    "celsius", "fahrenheit", "k", "10[\\^*e]?[0-9]{1,2}", "cells?", "#", "m2", "sqm", "hpf",
))  # fmt: skip
_UNIT = re.compile(rf"/?(?:(?:[kcdmunpf]?(?:{_PREFIXED})|{_OTHERS})[/*.]?)+")


def is_unit(key: str) -> bool:
    """Whether a text is sure to be a unit, and not something else that got into the column: only
    such are named.

    >>> is_unit("mg/dl"), is_unit("10^9/l"), is_unit("johnsmith")
    (True, True, False)
    """
    return len(key) <= 16 and _UNIT.fullmatch(key) is not None


def several_units(
    rows: Iterable[tuple[str, str, int]], expected: Mapping[str, str], table: str
) -> list[Finding]:
    """A finding for each code with rows in a unit that is not the code's, nor known to be
    convertible.

    ``rows``: (code, unit, rows) as ingested, so what could be converted has the code's unit
    already; ``expected``: code -> its unit; of another code the most frequent one counts. No unit
    at all is none too many.
    """
    by_code: dict[str, dict[str, int]] = {}
    spelt: dict[str, str] = {}
    for code, unit, count in rows:
        key = unit_key(unit)
        if key:
            counts = by_code.setdefault(code, {})
            counts[key] = counts.get(key, 0) + count
            spelt.setdefault(key, unit.strip())
    findings = []
    for code, counts in sorted(by_code.items()):
        first = (
            unit_key(expected[code])
            if code in expected
            else max(counts, key=lambda key: (counts[key], key))
        )
        others = {key: count for key, count in counts.items() if key != first}
        frequent = sorted(
            (key for key in others if others[key] >= MIN_GROUP_SIZE), key=lambda key: -others[key]
        )
        # Single rows of a code whose unit is known are in quarantine, with their reason.
        if not others or (code in expected and not frequent):
            continue
        affected = sum(others.values())
        whole = sum(counts.values())
        frequent = [
            spelt[key]
            for key in sorted(others, key=lambda key: -others[key])
            if others[key] >= MIN_GROUP_SIZE
        ]
        named = (
            join_words([unit for unit in frequent if is_unit(unit_key(unit))][:_NAMED])
            or "rare ones"
        )
        of_code = expected.get(code) or (
            spelt[first] if is_unit(first) else "the most frequent one"
        )
        words = (
            f"{rows_of(affected, whole)} are in another unit than {of_code} ({named}), which can't "
            "be converted"
        )
        findings.append(Finding(table, "units", code, bool(frequent), affected, whole, words))
    return findings
