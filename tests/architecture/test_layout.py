"""The rooms: which package imports which, how many there are, and how long a file may be."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from source_files import PACKAGES, ROOT, parse, python_files

MOST_ROOMS = 20
MOST_LINES = 400


def module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module) -> set[tuple[str, str]]:
    """(module, name) of each ``from module import name``; (module, "") of ``import module``."""
    pairs: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            pairs.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            pairs.update((node.module, alias.name) for alias in node.names)
    return pairs


@cache
def module_graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports.

    ``from package import module`` counts for the module alone, not for the package's ``__init__``.
    """
    trees = {module_name(file): parse(file) for file in python_files(package)}
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        submodules = {f"{package}.{name}" for package, name in imports_of(tree)} & trees.keys()
        packages = {
            package for package, name in imports_of(tree) if f"{package}.{name}" not in trees
        }
        graph[module] = (submodules | packages & trees.keys()) - {module}
    return graph


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def room_graph(package: str) -> dict[str, set[str]]:
    """Room of a package -> rooms that it imports."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module, imported in module_graph(package).items():
        rooms = {room_of(name) for name in imported}
        graph[room_of(module)] |= rooms - {room_of(module), ""}
    graph.pop("", None)
    return dict(graph)


def in_order(graph: Mapping[str, set[str]]) -> list[str]:
    """What nothing is imported by last; fails with the circle where there is one."""
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_rooms_and_not_too_many(package):
    """Printed with ``pytest -s``: each room with the rooms that it imports, from the lowest up."""
    graph = room_graph(package)
    for room in in_order(graph):
        print(f"{room:<12} <- {', '.join(sorted(graph[room]))}")
    assert len(graph) <= MOST_ROOMS, sorted(graph)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_modules(package):
    in_order(module_graph(package))


def test_a_circle_would_be_seen():
    with pytest.raises(pytest.fail.Exception, match=r"a <- b <- a|b <- a <- b"):
        in_order({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("file", python_files(*PACKAGES), ids=str)
def test_no_file_is_too_long(file):
    lines = len((ROOT / file).read_text().splitlines())
    assert lines <= MOST_LINES
