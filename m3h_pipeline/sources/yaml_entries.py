"""Entries of YAML files that name tasks and signals: tasks.yaml, signals.yaml and a hospital's
cohort.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from m3h_core.data.tasks import PROBLEMS, TaskSpec
from m3h_pipeline.errors import InputError, suggest_similar

# Keys of an entry that become the TaskSpec, and the kinds of notes that give its labels away.
TASK_KEYS = frozenset(
    {"name", "problem", "department", "unit", "definition", "classes", "derived_from"}
)
# A task's name becomes the name of files and of metrics.
_TASK_NAME = re.compile(r"\w[\w.-]{0,63}")


def list_entries(file: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of mappings under a key."""
    entries = content.get(key)
    is_list = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not is_list or not entries:
        raise InputError(f"{file} needs a list under the key {key!r}")
    return entries


def check_keys(
    file: Path, entry: Mapping[str, Any], allowed: Collection[str], required: Collection[str]
) -> None:
    """Refuse an entry that lacks a required key or has one that is not allowed."""
    name = entry.get("name", entry.get("code", "?"))
    if missing := sorted(set(required) - entry.keys()):
        raise InputError(f"{file}: the entry {name!r} lacks {', '.join(missing)}")
    if unknown := sorted(map(str, entry.keys() - set(allowed))):
        hint = suggest_similar(unknown[0], allowed)
        raise InputError(
            f"{file}: the entry {name!r} has the unknown key {', '.join(unknown)}{hint}"
        )


def refuse_duplicates(file: Path, names: Sequence[str]) -> None:
    """Refuse a name that is there more than once."""
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(f"{file}: {', '.join(duplicates)} is there more than once")


def parse_task(
    file: Path, entry: Mapping[str, Any], other_keys: Collection[str] = ()
) -> tuple[TaskSpec, tuple[str, ...]]:
    """An entry's task, and the kinds of notes that its labels are derived from.

    ``other_keys``: those that an entry of this file may have beside `TASK_KEYS`.

    >>> entry = {"name": "fall", "problem": "binary", "derived_from": ["nursing"]}
    >>> spec, kinds = parse_task(Path("cohort.yaml"), entry)
    >>> spec.name, kinds
    ('fall', ('nursing',))
    >>> parse_task(Path("cohort.yaml"), {"name": "fall", "problem": "binray"})
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: cohort.yaml: task fall: problem 'binray' is not one of \
binary, multiclass, regression, clustering; did you mean binary?
    """
    check_keys(file, entry, TASK_KEYS | set(other_keys), required={"name", "problem"})
    name = entry["name"]
    problem = entry["problem"]
    if not isinstance(name, str) or not _TASK_NAME.fullmatch(name):
        raise InputError(f"{file}: {name!r} is no name for a task: use letters, digits, _, - and .")
    if problem not in PROBLEMS:
        hint = suggest_similar(str(problem), PROBLEMS)
        raise InputError(
            f"{file}: task {name}: problem {problem!r} is not one of {', '.join(PROBLEMS)}{hint}"
        )
    classes = _parse_classes(file, name, entry.get("classes"))
    kinds = entry.get("derived_from") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise InputError(
            f"{file}: task {name!r}: derived_from must be a list of kinds of notes: [radiology]"
        )
    words = {key: str(entry[key]) for key in ("department", "unit", "definition") if key in entry}
    try:
        return TaskSpec(name, problem, classes, **words), tuple(kinds)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: {error}") from None


def _parse_classes(file: Path, task: str, classes: Any) -> Any:
    """Names of classes as texts; another value is the TaskSpec's to judge."""
    if not isinstance(classes, list):
        return classes
    if any(isinstance(label, bool) for label in classes):
        raise InputError(
            f'{file}: task {task}: write "yes" and "no" in quotes, else YAML reads true and false'
        )
    names = [str(label) for label in classes]
    refuse_duplicates(file, [name.lower() for name in names])
    return names
