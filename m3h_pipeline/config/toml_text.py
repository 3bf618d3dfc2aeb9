"""The text of ``m3h.toml``: written once with what each setting means, then changed a line at a
time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, MutableMapping
from typing import Any, Literal, get_args, get_origin

import tomlkit
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tomlkit.items import Item, Table

_WIDTH = 100
_INTRODUCTION = (
    "All settings of this out-folder, read by the command line and by Dagster. Edit it freely: a "
    "line that is left out has its default."
)


def format_toml(config: BaseModel) -> str:
    """Every setting below a comment that says what it means, a section a table."""
    return "\n".join([*_format_comment(_INTRODUCTION), *_format_sections(config, "")]) + "\n"


def update_toml(text: str, before: BaseModel, after: BaseModel) -> str:
    """The text with the settings changed that differ; all else stays as a person wrote it.

    >>> class Section(BaseModel):
    ...     size: int = 1
    ...     name: str = "a"
    >>> class All(BaseModel):
    ...     section: Section = Section()
    >>> print(update_toml("[section]\\nsize = 1  # small\\n", All(), All(section=Section(size=2))))
    [section]
    size = 2  # small
    <BLANKLINE>
    """
    document = tomlkit.parse(text)
    _apply_changes(document, before, after)
    return tomlkit.dumps(document)


def format_value(value: Any) -> str:
    """A value as TOML writes it.

    >>> format_value((512, 64)), format_value(True)
    ('[512, 64]', 'true')
    """
    return _to_item(value).as_string()


def _apply_changes(table: MutableMapping[str, Any], before: BaseModel, after: BaseModel) -> None:
    for name in type(after).model_fields:
        old = getattr(before, name)
        new = getattr(after, name)
        if old == new:
            continue
        if not isinstance(new, BaseModel):
            _set_value(table, name, _to_item(new))
            continue
        if name not in table:
            table[name] = tomlkit.table()
        _apply_changes(table[name], old, new)


def _set_value(table: MutableMapping[str, Any], name: str, value: Item) -> None:
    """Change a setting, or add it below the last one: comments after that are the next
    section's.
    """
    if name in table or not isinstance(table, Table):
        table[name] = value
        return
    body = table.value.body
    after: list[Item] = []
    while body and body[-1][0] is None:
        after.insert(0, body.pop()[1])
    table.append(name, value)
    for item in after:
        table.value.append(None, item)


def _format_sections(section: BaseModel, name: str) -> Iterator[str]:
    """The lines of a section: its settings first, since a table ends where the next begins."""
    fields = type(section).model_fields
    inner = [field for field in fields if isinstance(getattr(section, field), BaseModel)]
    for field, about in fields.items():
        if field not in inner:
            yield from _format_comment(_format_meaning(about))
            yield f"{field} = {format_value(getattr(section, field))}"
    for field in inner:
        below: BaseModel = getattr(section, field)
        path = f"{name}.{field}" if name else field
        yield ""
        yield from _format_comment(type(below).__doc__ or "")
        yield f"[{path}]"
        yield from _format_sections(below, path)


def _format_meaning(about: FieldInfo) -> str:
    """What a setting means, what it may be, and its default."""
    parts = [about.description or ""]
    if get_origin(about.annotation) is Literal:
        parts.append(f"One of: {', '.join(get_args(about.annotation))}.")
    default = about.get_default(call_default_factory=True)
    if default not in ("", [], {}, ()):
        parts.append(f"Default: {format_value(default)}.")
    return " ".join(parts)


def _format_comment(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
    )


def _to_item(value: Any) -> Item:
    if not isinstance(value, dict):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    table.update(value)
    return table
