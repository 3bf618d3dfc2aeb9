"""``docs/settings.md``: every setting of ``m3h.toml``, from the docstrings below them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from m3h_pipeline.config.sections import Config
from m3h_pipeline.config.toml_text import format_value

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_INTRODUCTION = """\
# Settings

Every setting of `m3h.toml`, by section. `m3h init` writes the file with the same words as comments
([operations](operations.md#settings)); a line that is left out has its default.

`python -m m3h_pipeline.config` writes this page, from the docstrings in `m3h_pipeline/config/` and,
for `[model]`, in `m3h_core/config.py`: change them there.
"""
_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}


def format_reference() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_format_sections(Config, "")])


def write_reference(page: Path = PAGE) -> Path:
    """Write the page into a checkout's docs."""
    page.write_text(format_reference(), encoding="utf-8")
    return page


def _format_sections(section: type[BaseModel], name: str) -> Iterator[str]:
    inner: dict[str, type[BaseModel]] = {}
    rows = []
    for field, about in section.model_fields.items():
        if isinstance(about.default, BaseModel):
            inner[field] = type(about.default)
            continue
        default = f"`{format_value(about.default)}`"
        cells = (f"`{field}`", about.description or "", _format_range(about), default)
        rows.append(f"| {' | '.join(_to_cell(cell) for cell in cells)} |")
    if name:
        yield f"## [{name}]\n\n{inspect.getdoc(section)}\n"
    if rows:
        yield "\n".join(
            ["| setting | meaning | may be | default |", "|---|---|---|---|", *rows, ""]
        )
    for field, below in inner.items():
        yield from _format_sections(below, f"{name}.{field}" if name else field)


def _format_range(about: FieldInfo) -> str:
    """What a setting may be, with its bounds.

    >>> from m3h_pipeline.config.data import CohortConfig
    >>> _format_range(CohortConfig.model_fields["prediction_hours"])
    'number, above 0'
    """
    kind = get_origin(about.annotation) or about.annotation
    if kind is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(about.annotation))
    if kind in (list, tuple):
        word = _TYPES.get(get_args(about.annotation)[0], "text")
        return f"list of {word}s"
    bounds = [
        f"{word} {getattr(bound, name)}"
        for bound in about.metadata
        for name, word in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    return ", ".join([_TYPES.get(kind or dict, "table"), *bounds])


def _to_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
