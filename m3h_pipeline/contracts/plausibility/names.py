"""Names that are nearly another name: codes of known signals, categories that differ by case or
blanks only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from m3h_pipeline.contracts.plausibility.findings import Finding, format_rows

# What the signals of data_contracts/signals.yaml are called elsewhere, in lower case, letters and
# digits alone.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "heart_rate": ("hr", "pulse", "pulserate", "heartfrequency", "puls"),
    "nibp_systolic": (
        "sbp", "nisysabp", "nisbp", "nbpsystolic", "nbps", "sysbp", "systolicbp",
        "systolicbloodpressure", "bpsystolic", "systolic",
    ),
    "nibp_diastolic": (
        "dbp", "nidiasabp", "nidbp", "nbpdiastolic", "nbpd", "diasbp", "diastolicbp",
        "diastolicbloodpressure", "bpdiastolic", "diastolic",
    ),
    "nibp_mean": ("mbp", "nimap", "nimbp", "nbpm", "nbpmean", "meanbp", "meanbloodpressure"),
    "respiratory_rate": (
        "rr", "resprate", "resp", "breathingrate", "respirationrate", "respirations",
    ),
    "spo2": ("o2sat", "oxygensaturation", "pulseoximetry", "pulseox", "o2saturation", "spo2pct"),
    "gcs_verbal": ("gcsv", "verbalgcs"),
    "gcs_eye": ("gcse", "eyegcs", "gcseyes"),
    "gcs_motor": ("gcsm", "motorgcs"),
    "glucose": ("glu", "gluc", "bloodglucose", "bloodsugar", "bg", "serumglucose"),
    "potassium": ("k", "kalium", "serumpotassium"),
    "sodium": ("na", "natrium", "serumsodium"),
    "chloride": ("cl", "serumchloride"),
    "creatinine": ("cr", "crea", "creat", "scr", "serumcreatinine", "kreatinin"),
    "urea_nitrogen": ("bun", "bloodureanitrogen", "ureanitrogen"),
    "bicarbonate": ("hco3", "bicarb", "totalco2", "tco2"),
    "anion_gap": ("aniongap", "ag"),
    "hemoglobin": ("hb", "hgb", "haemoglobin"),
    "hematocrit": ("hct", "haematocrit", "pcv"),
    "magnesium": ("mg", "mag", "serummagnesium"),
    "platelets": ("plt", "platelet", "plateletcount", "thrombocytes"),
    "phosphate": ("phos", "po4", "phosphorus"),
    "white_blood_cells": (
        "wbc", "leukocytes", "leucocytes", "whitebloodcellcount", "whitecellcount",
    ),
    "calcium_total": ("ca", "calcium", "totalcalcium"),
    "red_blood_cells": ("rbc", "erythrocytes", "redbloodcellcount"),
    "neutrophils": ("neut", "neutrophil", "neutrophilspct"),
    "vancomycin": ("vanco", "vanc"),
}  # fmt: skip
_CLOSE = 0.86


def normalize_name(name: str) -> str:
    """A name without case, blanks and punctuation.

    >>> normalize_name("Heart-Rate "), normalize_name("female")
    ('heartrate', 'female')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def guess_signal(code: str, signals: Iterable[str]) -> str | None:
    """The known signal that a code is likely to be.

    >>> guess_signal("SBP", ["nibp_systolic"]), guess_signal("lactate", ["platelets", "chloride"])
    ('nibp_systolic', None)
    """
    signal_by_name = {normalize_name(signal): signal for signal in signals}
    signal_by_synonym = {
        synonym: signal
        for signal in signal_by_name.values()
        for synonym in _SYNONYMS.get(signal, ())
    }
    name = normalize_name(code)
    if name in signal_by_name:
        return signal_by_name[name]
    if name in signal_by_synonym:
        return signal_by_synonym[name]
    close = difflib.get_close_matches(name, signal_by_name, 1, _CLOSE)
    return signal_by_name[close[0]] if close else None


def find_misnamed_codes(
    rows: Mapping[str, int], signals: Sequence[str], own: Iterable[str], table: str
) -> list[Finding]:
    """A finding for each code that is likely to be a known signal under another name.

    ``rows``: code -> rows; ``own``: codes that the hospital declared as its own, and so means.
    """
    findings = []
    whole = sum(rows.values())
    for code in sorted(rows.keys() - set(signals) - set(own)):
        signal = guess_signal(code, signals)
        if signal is None:
            continue
        words = (
            f"did you mean {signal}? It stands in "
            f"{format_rows(rows[code], whole).replace('values', 'rows')}"
        )
        findings.append(Finding(table, "code_names", code, False, rows[code], whole, words))
    return findings


def normalize_category(category: str) -> str:
    """A category but for its spelling; beside digits, and at the end, punctuation means something
    (1.5, A+).

    >>> [normalize_category(text) for text in (" Female", "NON-SMOKER", "non smoker")]
    ['female', 'nonsmoker', 'nonsmoker']
    >>> normalize_category("A+"), normalize_category("65-74")
    ('a+', '65-74')
    """
    text = "".join(category.casefold().split())
    if any(letter.isdigit() for letter in text):
        return text
    return re.sub(r"[-_./,;:]+(?=\w)|[_.,;:]+$", "", text)


def find_similar_categories(counts: Mapping[str, int], table: str, subject: str) -> list[Finding]:
    """A finding where categories of a column differ by case, blanks or punctuation alone."""
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault(normalize_category(name), []).append(name)
    twins = {key: names for key, names in groups.items() if key and len(names) > 1}
    if not twins:
        return []
    rows = sum(_count_rarer(names, counts) for names in twins.values())
    whole = sum(counts.values())
    words = (
        f"{len(twins)} of its {len(groups)} categories {'is' if len(twins) == 1 else 'are'} spelt "
        "in more than one way (case, blanks or punctuation), so that each spelling is a category "
        f"of its own: {format_rows(rows, whole)} have the rarer spelling"
    )
    return [Finding(table, "categories", subject, False, rows, whole, words)]


def _count_rarer(names: Sequence[str], counts: Mapping[str, int]) -> int:
    """Rows of all spellings but the most frequent one."""
    rows = [counts[name] for name in names]
    return sum(rows) - max(rows)
