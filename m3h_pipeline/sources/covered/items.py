"""An item of a hospital's records: what its dictionary says of it, and what was counted of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """An entry of a dictionary of items; empty where it says nothing.

    ``prefix``: what stands before the id in the code of an item without a label; ``suffix``: what
    is added to a code (of rates).
    """

    item: str
    label: str = ""
    category: str = ""
    param_type: str = ""
    fluid: str = ""
    prefix: str = "item"
    suffix: str = ""


@dataclass(frozen=True)
class ItemCounts:
    """What was counted of an item in a table.

    ``rows``: of the whole table. The others are of what was known of training stays at their
    prediction: ``stays`` that have a number, rows that hold ``numbers`` and those that hold
    ``texts`` instead, and ``units``: unit as written -> rows with a number. ``spellings``: all ways
    in which a unit is written in the table, as the macro normal_unit has them -> as written.
    """

    item: str
    table: str
    rows: int
    stays: int = 0
    numbers: int = 0
    texts: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)
