"""One thought a line, and names that say what a value is: what the linter has no rule for."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache

import pytest
from source_files import FOLDERS, parse, python_files

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Each says that something is known, or was found, and not what.
UNCLEAR = {"known", "found", "said", "told", "mine", "there", "theirs", "gone", "held"}


def assigns_several_values(node: ast.AST) -> bool:
    """``a, b = x, y``; to unpack one value is fine, and so is a swap."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    targets = [target for target in node.targets if isinstance(target, ast.Tuple)]
    is_swap = any(
        sorted(map(ast.unparse, target.elts)) == sorted(map(ast.unparse, node.value.elts))
        for target in targets
    )
    return bool(targets) and not is_swap


def nests(kinds: type | tuple[type, ...]) -> Callable[[ast.AST], bool]:
    """Whether a node of these kinds holds another."""

    def holds_another(node: ast.AST) -> bool:
        if not isinstance(node, kinds):
            return False
        return any(isinstance(child, kinds) for child in ast.walk(node) if child is not node)

    return holds_another


def has_unclear_name(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return isinstance(node.ctx, ast.Store) and node.id in UNCLEAR
    return isinstance(node, ast.arg) and node.arg in UNCLEAR


RULES: dict[str, Callable[[ast.AST], bool]] = {
    "one assignment a line": assigns_several_values,
    "no comprehension inside another": nests(COMPREHENSIONS),
    "no conditional expression inside another": nests(ast.IfExp),
    "a name says what the value is": has_unclear_name,
}
BROKEN = {
    "one assignment a line": "a, b = 1, 2",
    "no comprehension inside another": "[[y for y in x] for x in z]",
    "no conditional expression inside another": "a if b else c if d else e",
    "a name says what the value is": "found = 1",
}


def places_by_rule(tree: ast.Module) -> dict[str, list[str]]:
    """Rule -> where it is broken."""
    places: dict[str, list[str]] = {rule: [] for rule in RULES}
    for node in ast.walk(tree):
        for rule, is_broken in RULES.items():
            if is_broken(node):
                places[rule].append(f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    return places


@cache
def all_places() -> dict[str, list[str]]:
    """Rule -> file and line of everything that breaks it in this repository."""
    all_places: dict[str, list[str]] = {rule: [] for rule in RULES}
    for file in python_files(*FOLDERS):
        for rule, places in places_by_rule(parse(file)).items():
            all_places[rule] += [f"{file}: {place}" for place in places]
    return all_places


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_kept(rule):
    places = all_places()[rule]
    assert not places, "\n".join(places)


@pytest.mark.parametrize("rule", RULES)
def test_what_breaks_the_rule_is_seen(rule):
    assert places_by_rule(ast.parse(BROKEN[rule]))[rule]


@pytest.mark.parametrize("code", ["a, b = b, a", "rows = [x for x in z] if z else []"])
def test_what_keeps_the_rules_is_not_reported(code):
    assert not any(places_by_rule(ast.parse(code)).values())
