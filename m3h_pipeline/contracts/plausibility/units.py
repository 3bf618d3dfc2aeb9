"""Units as the rows name them: more than one under a code, of which one can't be converted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from m3h_pipeline.contracts.plausibility.findings import Finding, format_rows
from m3h_pipeline.sources.units import unit_key
from m3h_pipeline.wording import MIN_GROUP_SIZE, join_words

# A file in which units are free text may hold hundreds.
_NAMED = 5

_PREFIXED = "g|mol|l|eq|iu|u|osm|pa|m|s|cal|j"
_OTHERS = (
    "%|mmhg|cmh2o|torr|bar|lbs?|oz|in|inch|inches|ft|feet|min|h|hr|hours?|days?|sec"
    "|bpm|beats|breaths|insp|score|count|points?|ratio"
    "|deg|°?[cf]|deg[cf]|celsius|fahrenheit|k|10[\\^*e]?[0-9]{1,2}|cells?|#|m2|sqm|hpf"
)
_UNIT = re.compile(rf"/?(?:(?:[kcdmunpf]?(?:{_PREFIXED})|{_OTHERS})[/*.]?)+")


def is_unit(key: str) -> bool:
    """Whether a text is sure to be a unit, and not something else that got into the column: only
    such are named.

    >>> is_unit("mg/dl"), is_unit("10^9/l"), is_unit("johnsmith")
    (True, True, False)
    """
    return len(key) <= 16 and _UNIT.fullmatch(key) is not None


def find_foreign_units(
    rows: Iterable[tuple[str, str, int]], expected: Mapping[str, str], table: str
) -> list[Finding]:
    """A finding for each code with rows in a unit that is not the code's, nor known to be
    convertible.

    ``rows``: (code, unit, rows) as ingested, so what could be converted has the code's unit
    already; ``expected``: code -> its unit; of another code the most frequent one counts. No unit
    at all is none too many.
    """
    by_code: dict[str, dict[str, int]] = {}
    spelling: dict[str, str] = {}
    for code, unit, count in rows:
        key = unit_key(unit)
        if key:
            counts = by_code.setdefault(code, {})
            counts[key] = counts.get(key, 0) + count
            spelling.setdefault(key, unit.strip())
    findings = []
    for code, counts in sorted(by_code.items()):
        if code in expected:
            own = unit_key(expected[code])
        else:
            own = max(counts, key=lambda key: (counts[key], key))
        others = {key: count for key, count in counts.items() if key != own}
        frequent = [key for key in others if others[key] >= MIN_GROUP_SIZE]
        frequent.sort(key=lambda key: -others[key])
        # Single rows of a code whose unit is known are in quarantine, with their reason.
        if not others or (code in expected and not frequent):
            continue
        affected = sum(others.values())
        whole = sum(counts.values())
        units = [spelling[key] for key in frequent if is_unit(key)]
        named = join_words(units[:_NAMED]) or "rare ones"
        own_unit = expected.get(code)
        if not own_unit:
            own_unit = spelling[own] if is_unit(own) else "the most frequent one"
        words = (
            f"{format_rows(affected, whole)} are in another unit than {own_unit} ({named}), which "
            "can't be converted"
        )
        findings.append(Finding(table, "units", code, bool(frequent), affected, whole, words))
    return findings
