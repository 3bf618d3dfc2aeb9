"""Names that are nearly another name: codes of known signals, categories that differ by case or
blanks only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from m3h_pipeline.contracts.plausibility.findings import Finding, rows_of

# What the signals of data_contracts/signals.yaml are called elsewhere, in lower case, letters and
# digits alone.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "heart_rate": ("hr", "pulse", "pulserate", "heartfrequency", "puls"),
    "nibp_systolic": ("sbp", "nisysabp", "nisbp", "nbpsystolic", "nbps", "sysbp", "systolicbp", "systolicbloodpressure",
                      "bpsystolic", "systolic"),
    "nibp_diastolic": ("dbp", "nidiasabp", "nidbp", "nbpdiastolic", "nbpd", "diasbp", "diastolicbp",
                       "diastolicbloodpressure", "bpdiastolic", "diastolic"),
    "nibp_mean": ("mbp", "nimap", "nimbp", "nbpm", "nbpmean", "meanbp", "meanbloodpressure"),
    "respiratory_rate": ("rr", "resprate", "resp", "breathingrate", "respirationrate", "respirations"),
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
    "white_blood_cells": ("wbc", "leukocytes", "leucocytes", "whitebloodcellcount", "whitecellcount"),
    "calcium_total": ("ca", "calcium", "totalcalcium"),
    "red_blood_cells": ("rbc", "erythrocytes", "redbloodcellcount"),
    "neutrophils": ("neut", "neutrophil", "neutrophilspct"),
    "vancomycin": ("vanco", "vanc"),
}  # fmt: skip
_CLOSE = 0.86


def plain(name: str) -> str:
    """A name without case, blanks and punctuation.

    >>> plain("Heart-Rate "), plain("female")
    ('heartrate', 'female')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def meant_signal(code: str, signals: Iterable[str]) -> str | None:
    """The known signal that a code is likely to be.

    >>> meant_signal("SBP", ["nibp_systolic"]), meant_signal("lactate", ["platelets", "chloride"])
    ('nibp_systolic', None)
    """
    known = {plain(signal): signal for signal in signals}
    synonyms = {
        name: signal
        for signal, names in _SYNONYMS.items()
        if signal in known.values()
        for name in names
    }
    name = plain(code)
    if name in known or name in synonyms:
        return known.get(name) or synonyms[name]
    close = difflib.get_close_matches(name, known, 1, _CLOSE)
    return known[close[0]] if close else None


def code_names(
    rows: Mapping[str, int], signals: Sequence[str], own: Iterable[str], table: str
) -> list[Finding]:
    """A finding for each code that is likely to be a known signal under another name.

    ``rows``: code -> rows; ``own``: codes that the hospital declared as its own, and so means.
    """
    findings = []
    whole = sum(rows.values())
    for code in sorted(rows.keys() - set(signals) - set(own)):
        signal = meant_signal(code, signals)
        if signal is None:
            continue
        words = (
            f"did you mean {signal}? It stands in "
            f"{rows_of(rows[code], whole).replace('values', 'rows')}"
        )
        findings.append(Finding(table, "code_names", code, False, rows[code], whole, words))
    return findings


def spelling(category: str) -> str:
    """A category but for its spelling; beside digits, and at the end, punctuation means something
    (1.5, A+).

    >>> spelling(" Female"), spelling("NON-SMOKER"), spelling("non smoker"), spelling("A+"), spelling("65-74")
    ('female', 'nonsmoker', 'nonsmoker', 'a+', '65-74')
    """
    text = "".join(category.casefold().split())
    if any(letter.isdigit() for letter in text):
        return text
    return re.sub(r"[-_./,;:]+(?=\w)|[_.,;:]+$", "", text)


def alike(counts: Mapping[str, int], table: str, subject: str) -> list[Finding]:
    """A finding where categories of a column differ by case, blanks or punctuation alone."""
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault(spelling(name), []).append(name)
    twins = {key: names for key, names in groups.items() if key and len(names) > 1}
    if not twins:
        return []
    rows = sum(
        sum(counts[name] for name in names) - max(counts[name] for name in names)
        for names in twins.values()
    )
    whole = sum(counts.values())
    words = (
        f"{len(twins)} of its {len(groups)} categories {'is' if len(twins) == 1 else 'are'} spelt "
        "in more than one way (case, blanks or punctuation), so that each spelling is a category "
        f"of its own: {rows_of(rows, whole)} have the rarer spelling"
    )
    return [Finding(table, "categories", subject, False, rows, whole, words)]
