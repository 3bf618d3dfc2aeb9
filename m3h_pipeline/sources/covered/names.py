"""Codes of signals from the labels of a dictionary of items."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from m3h_pipeline.sources.covered.items import Item

_LONGEST = 64
_USUAL_FLUID = "blood"


def slug(text: str) -> str:
    """A text in small letters, digits and underscores.

    >>> slug("Arterial Blood Pressure systolic"), slug("Temperature (°C) "), slug("% Hemoglobin")
    ('arterial_blood_pressure_systolic', 'temperature_degc', 'hemoglobin')
    """
    plain = unicodedata.normalize("NFKD", text.replace("°", "deg"))
    ascii_text = plain.encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", ascii_text).strip("_")[:_LONGEST].strip("_")


def name_items(dictionary: Sequence[Item], taken: Collection[str] = ()) -> dict[str, str]:
    """The code of each item of a dictionary, unique and none of those ``taken``.

    It is the label; where items share one, that of another fluid than blood with its fluid; where
    items still share it, with the item's id. All items of the dictionary count, not those that a
    hospital uses now, so that a code never changes as data comes in.

    >>> items = [
    ...     Item("50813", "Lactate", fluid="Blood"), Item("50820", "pH", fluid="Blood"),
    ...     Item("51491", "pH", fluid="Urine"), Item("50809", "Glucose", fluid="Blood"),
    ...     Item("221906", "Norepinephrine", suffix="_rate"), Item("50801", prefix="lab")]
    >>> list(name_items(items, taken={"glucose"}).values())
    ['lactate', 'ph', 'ph_urine', 'glucose_50809', 'norepinephrine_rate', 'lab_50801']
    """
    labels = [slug(item.label) and slug(item.label) + item.suffix for item in dictionary]
    shared = Counter(labels)
    names = [
        _add_fluid(name, item) if shared[name] > 1 else name
        for name, item in zip(labels, dictionary, strict=True)
    ]
    counts = Counter(names)
    unavailable = set(taken) | {name for name, count in counts.items() if count > 1}
    codes: dict[str, str] = {}
    for name, item in zip(names, dictionary, strict=True):
        identifier = slug(item.item)
        code = name or f"{item.prefix}_{identifier}"
        codes[item.item] = f"{code}_{identifier}" if code in unavailable else code
        unavailable.add(codes[item.item])
    return codes


def _add_fluid(name: str, item: Item) -> str:
    fluid = slug(item.fluid)
    is_usual = fluid in ("", _USUAL_FLUID) or name.endswith(f"_{fluid}")
    return name if is_usual or not name else f"{name}_{fluid}"
