"""Reading a YAML file that a person wrote, or somebody else in their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.encoding import conversion
from m3h_pipeline.files.regular import is_regular_file

# Ten times as fast, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 20_000_000
# Brackets within brackets are read by a function that calls itself.
_DEEPEST = 50
# Ten aliases of ten aliases each, nine times over, are a few lines that unfold to a thousand
# million entries.
_MOST_UNFOLDED = 100_000


def read_yaml(file: Path, needs: str = "lines like `key: value`") -> dict[str, Any]:
    """The mapping that a YAML file holds; an `InputError` says where it is none, and what it
    ``needs``.
    """
    if not is_regular_file(file):
        raise InputError(f"{file} is not there")
    if file.stat().st_size > _MOST_BYTES:
        raise InputError(
            f"{file} is larger than {_MOST_BYTES // 1_000_000} MB: this is no file of settings"
        )
    try:
        content = _load(file, file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{file} is not in UTF-8: {conversion(file)}") from None
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        what = str(getattr(error, "problem", None) or error).splitlines()[0]
        hint = (
            ": indent with spaces, YAML takes no tabs"
            if "\\t" in what or "tab character" in what
            else ""
        )
        raise InputError(f"{file} is not valid YAML{where}: {what}{hint}") from None
    except (ValueError, OverflowError):
        # A date such as 2024-02-31, a number of a million digits.
        raise InputError(
            f"{file} has a date or a number that is none: write it in quotes"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file} needs {needs}")
    return content


def _load(file: Path, text: str) -> Any:
    _check_depth(file, text)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(file, node, {}, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_depth(file: Path, text: str) -> None:
    """Refuse nesting that would exhaust the stack of what reads it."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            line = event.start_mark.line + 1
            raise InputError(
                f"{file} (line {line}): more than {_DEEPEST} levels within each other; write it "
                "flat"
            )


def _check_node(file: Path, node: yaml.Node, sizes: dict[int, int], within: dict[int, None]) -> int:
    """Refuse keys that are there twice and aliases without end; returns how many entries the node
    unfolds to.

    ``sizes``: of the nodes that were looked at; ``within``: the nodes around this one.
    """
    line = node.start_mark.line + 1
    if id(node) in within:
        raise InputError(
            f"{file} (line {line}): an alias (*) stands within what it refers to: write it out"
        )
    if id(node) in sizes:
        return sizes[id(node)]
    within[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(file, node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    unfolded = 1
    for child in children:
        is_alias = id(child) in sizes
        unfolded += _check_node(file, child, sizes, within)
        if is_alias and unfolded > _MOST_UNFOLDED:
            raise InputError(
                f"{file} (line {line}): its aliases (*) unfold to more than {_MOST_UNFOLDED:,} "
                "entries: write out what is meant"
            )
    del within[id(node)]
    sizes[id(node)] = unfolded
    return unfolded


def _check_keys(file: Path, node: yaml.MappingNode) -> None:
    """Of a key that is there twice YAML keeps the last, and nobody notices."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{file} (line {line}): a key must be a word, not a list or a mapping")
        name = (key.tag, key.value)
        if name in lines:
            raise InputError(
                f"{file}: the key {key.value} is there twice (lines {lines[name]} and {line}): "
                "keep one of them"
            )
        lines[name] = line
