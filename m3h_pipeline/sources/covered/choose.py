"""Which counted items become signals, in which unit, and why the others don't."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m3h_pipeline.sources.base import SIGNALS
from m3h_pipeline.sources.covered.denied import Denial, is_denied
from m3h_pipeline.sources.covered.items import Item, ItemCounts
from m3h_pipeline.sources.tasks_file import Signal
from m3h_pipeline.sources.units import find_factor, unit_key

TOO_FEW = "not a listed signal, and too few training stays have it"
DENIED = "no measurement of a patient, or an outcome (covered.yaml)"
TEXT = "not a listed signal, and mostly text"
UNLISTED = "not a listed signal"
# Of the values of a signal, more are numbers than texts.
_LEAST_NUMBERS = 0.5


@dataclass
class Choice:
    """The chosen signals.

    ``signals``: item -> its signal, without a range; ``tables``: table -> its chosen items;
    ``unit_rules``: (code, spelling, factor) of every unit that is understood; ``unread``: table ->
    reason -> rows of the items that were not chosen.
    """

    signals: dict[str, Signal] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    unit_rules: list[tuple[str, str, float]] = field(default_factory=list)
    unread: dict[str, dict[str, int]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``signals.json``."""
        entries = [
            {"code": signal.code, "unit": signal.unit or None, "low": None, "high": None}
            | {"covered": True}
            for signal in sorted(self.signals.values(), key=lambda signal: signal.code)
        ]
        (folder / SIGNALS).write_text(json.dumps(entries, indent=1) + "\n")


def choose_signals(
    counted: Iterable[ItemCounts],
    *,
    least_stays: float,
    codes: Mapping[str, str],
    dictionary: Mapping[str, Item],
    denials: Sequence[Denial],
    listed: Collection[str],
) -> Choice:
    """Choose of the items that are not ``listed``.

    ``least_stays``: of the training stays, so many must have it; ``codes``: item -> code, of those
    that may be chosen. An item of several tables is one of the first.

    >>> def choose(least_stays, **counts):
    ...     counts = ItemCounts("1", "labevents", rows=9, **counts)
    ...     return choose_signals([counts], least_stays=least_stays, codes={"1": "lactate"},
    ...                           dictionary={}, denials=[], listed=[])
    >>> choose(2, stays=2, numbers=5, units={"mmol/L": 5}).signals["1"].unit
    'mmol/L'
    >>> choose(3, stays=2, numbers=5).unread["labevents"]
    {'not a listed signal, and too few training stays have it': 9}
    """
    choice = Choice()
    for counts in counted:
        if counts.item in listed:
            continue
        is_new = counts.item in codes and counts.item not in choice.signals
        reason = _find_reason(counts, least_stays, dictionary, denials) if is_new else UNLISTED
        if reason:
            reasons = choice.unread.setdefault(counts.table, {})
            reasons[reason] = reasons.get(reason, 0) + counts.rows
            continue
        unit = choose_unit(counts.units)
        code = codes[counts.item]
        choice.signals[counts.item] = Signal(code, "covered", unit, (), -math.inf, math.inf)
        choice.tables.setdefault(counts.table, []).append(counts.item)
        choice.unit_rules += _list_rules(code, unit, counts.spellings)
    return choice


def choose_unit(units: Mapping[str, int]) -> str:
    """The unit that most rows have, as most of these write it; empty where none names one.

    >>> choose_unit({"": 9, "MG/DL": 1, "mg/dL": 3, "mmol/L": 2, "UNK": 5})
    'mg/dL'
    """
    by_key: dict[str, int] = {}
    for unit, rows in units.items():
        by_key[unit_key(unit)] = by_key.get(unit_key(unit), 0) + rows
    by_key.pop("", None)
    if not by_key:
        return ""
    key = max(by_key, key=lambda key: (by_key[key], key))
    spellings = [unit for unit in units if unit_key(unit) == key]
    return max(spellings, key=lambda unit: (units[unit], unit))


def _find_reason(
    counts: ItemCounts,
    least_stays: float,
    dictionary: Mapping[str, Item],
    denials: Sequence[Denial],
) -> str | None:
    """Why an item is no signal; None where it is one."""
    if is_denied(dictionary.get(counts.item, Item(counts.item)), denials):
        return DENIED
    if counts.numbers < _LEAST_NUMBERS * (counts.numbers + counts.texts):
        return TEXT
    if counts.stays == 0 or counts.stays < least_stays:
        return TOO_FEW
    return None


def _list_rules(code: str, unit: str, spellings: Mapping[str, str]) -> list[tuple[str, str, float]]:
    """(code, spelling, factor) of the spellings that can be brought to the unit."""
    factors = {spelling: find_factor(written, unit) for spelling, written in spellings.items()}
    return [(code, spelling, factor) for spelling, factor in factors.items() if factor is not None]
