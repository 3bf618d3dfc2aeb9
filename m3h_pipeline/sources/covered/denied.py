"""What never becomes a signal by coverage: ``data_contracts/covered.yaml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.covered.items import Item
from m3h_pipeline.sources.yaml_entries import check_keys, list_entries
from m3h_pipeline.state.paths import contracts_folder

_FIELDS = ("category", "param_type", "label")


@dataclass(frozen=True)
class Denial:
    """Items whose ``field`` is, or of a label holds, ``pattern``, but for those in ``welcome``."""

    field: str
    pattern: re.Pattern[str]
    welcome: frozenset[str] = frozenset()

    def holds(self, item: Item) -> bool:
        """Whether it keeps this item out."""
        text = getattr(item, self.field)
        return item.item not in self.welcome and self.pattern.search(text) is not None


def load_denials(file: Path | None = None) -> list[Denial]:
    """The entries of the file.

    >>> denials = load_denials()
    >>> alarm = Item("220046", "Heart rate Alarm - High", "Alarms", "Numeric")
    >>> pressure = Item("220052", "Arterial Blood Pressure mean", "Routine Vital Signs", "Numeric")
    >>> is_denied(alarm, denials), is_denied(pressure, denials)
    (True, False)
    """
    file = file or contracts_folder() / "covered.yaml"
    return [_parse(file, entry) for entry in list_entries(file, read_yaml(file), "denied")]


def is_denied(item: Item, denials: Sequence[Denial]) -> bool:
    """Whether one of the entries keeps an item out."""
    return any(denial.holds(item) for denial in denials)


def _parse(file: Path, entry: dict[str, Any]) -> Denial:
    check_keys(file, entry, {*_FIELDS, "why", "except"}, required={"why"})
    fields = [name for name in _FIELDS if name in entry]
    if len(fields) != 1:
        raise InputError(f"{file}: an entry needs one of {', '.join(_FIELDS)}")
    field = fields[0]
    text = str(entry[field])
    pattern = text if field == "label" else f"^{re.escape(text)}$"
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"{file}: {text!r} is not a regular expression: {error}; mend it"
        ) from None
    return Denial(field, compiled, frozenset(str(item) for item in entry.get("except", ())))
