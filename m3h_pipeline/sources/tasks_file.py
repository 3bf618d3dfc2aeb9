"""``data_contracts/tasks.yaml`` and ``signals.yaml`` as objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3h_core.tasks import TaskSpec
from m3h_pipeline.errors import InputError, did_you_mean
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.state.paths import contracts_folder

_RULE_KEYS = ("icd9", "icd10", "column", "derived_from")
_TASK_KEYS = {"name", "problem", "department", "unit", "definition", "classes", *_RULE_KEYS}
# Why notes of a kind that a task's labels come from are in nobody's inputs.
GIVEN_AWAY = "a task's labels are derived from notes of this kind"
_CODED = (
    "A diagnosis means that it was coded for the stay, not when it began: some were known at "
    "admission."
)
_SIGNAL_KEYS = {"code", "kind", "unit", "mimic_iv", "low", "high"}


@dataclass(frozen=True)
class TaskRule:
    """A task and what decides its label: billing codes by prefix, a derived column, or nothing
    (clustering).

    ``derived_from``: kinds of notes from whose text the labels were made; these give them away.
    """

    spec: TaskSpec
    icd9: tuple[str, ...] = ()
    icd10: tuple[str, ...] = ()
    column: str | None = None
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signal:
    """One code of the events table: its canonical unit, plausible range [low, high] and MIMIC-IV's
    item ids.
    """

    code: str
    kind: str
    unit: str
    mimic_iv: tuple[int, ...]
    low: float
    high: float


def limits_of(rules: Iterable[TaskRule]) -> list[str]:
    """What a reader of the report must know of these tasks' labels.

    >>> limits_of(load_tasks(only={"length_of_stay"}))
    []
    """
    return [_CODED] if any(rule.icd9 or rule.icd10 for rule in rules) else []


def load_tasks(file: Path | None = None, only: Collection[str] | None = None) -> list[TaskRule]:
    """The tasks in the file's order; with ``only``, those names alone.

    >>> rules = load_tasks()
    >>> len(rules), rules[0].spec.name, rules[0].icd10
    (44, 'heart_failure', ('I50',))
    >>> [rule.spec.name for rule in load_tasks(only={"phenotype", "gout"})]
    ['gout', 'phenotype']
    """
    file = file or contracts_folder() / "tasks.yaml"
    rules = [_task_rule(file, entry) for entry in entries(file, read_yaml(file), "tasks")]
    no_twins(file, [rule.spec.name for rule in rules])
    if only is None:
        return rules
    unknown = sorted(set(only) - {rule.spec.name for rule in rules})
    if unknown:
        raise InputError(f"{file}: there is no task {', '.join(unknown)}")
    return [rule for rule in rules if rule.spec.name in only]


def write_tasks(folder: Path, tasks: Iterable[TaskSpec]) -> None:
    """Write ``tasks.json``: what `TaskSpec.from_dict` reads, in order."""
    text = json.dumps([task.to_dict() for task in tasks], indent=1)
    (folder / "tasks.json").write_text(text + "\n")


def gives_away(rules: Iterable[TaskRule]) -> frozenset[str]:
    """Kinds of notes that give a label of these tasks away.

    They are taken out for the whole cohort, not for one task: attention would carry them over to
    it.

    >>> gives_away([TaskRule(TaskSpec("a", "binary"), derived_from=("radiology",)), TaskRule(TaskSpec("b", "binary"))])
    frozenset({'radiology'})
    """
    return frozenset(kind for rule in rules for kind in rule.derived_from)


def load_signals(file: Path | None = None) -> list[Signal]:
    """The codes that enter the events table, in the file's order.

    >>> load_signals()[0].code, load_signals()[0].mimic_iv
    ('heart_rate', (220045,))
    """
    file = file or contracts_folder() / "signals.yaml"
    signals = []
    for entry in entries(file, read_yaml(file), "signals"):
        check_keys(file, entry, _SIGNAL_KEYS, required=_SIGNAL_KEYS)
        items = tuple(entry.pop("mimic_iv"))
        signals.append(Signal(mimic_iv=items, **entry))
    no_twins(file, [signal.code for signal in signals])
    return signals


def entries(file: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of mappings under a key."""
    found = content.get(key)
    if (
        not isinstance(found, list)
        or not all(isinstance(entry, dict) for entry in found)
        or not found
    ):
        raise InputError(f"{file} needs a list under the key {key!r}")
    return found


def _task_rule(file: Path, entry: dict[str, Any]) -> TaskRule:
    check_keys(file, entry, _TASK_KEYS, required={"name", "problem"})
    rule = {key: entry[key] for key in _RULE_KEYS if key in entry}
    kinds = rule.get("derived_from", [])
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise InputError(
            f"{file}: task {entry['name']!r}: derived_from must be a list of kinds of notes"
        )
    try:
        spec = TaskSpec(**{key: value for key, value in entry.items() if key not in rule})
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    codes = {
        key: tuple(str(code).replace(".", "").upper() for code in rule.get(key, ()))
        for key in ("icd9", "icd10")
    }
    coded = bool(codes["icd9"] or codes["icd10"])
    if spec.problem == "clustering":
        if coded or "column" in rule:
            raise InputError(
                f"{file}: task {spec.name!r} is a clustering: it takes no codes and no column"
            )
    elif coded == ("column" in rule):
        raise InputError(
            f"{file}: task {spec.name!r} needs either a column or ICD prefixes (icd9, icd10)"
        )
    if coded and spec.problem != "binary":
        raise InputError(
            f"{file}: task {spec.name!r} has ICD prefixes, so its problem must be binary"
        )
    return TaskRule(spec, column=rule.get("column"), derived_from=tuple(kinds), **codes)


def check_keys(file: Path, entry: Mapping[str, Any], known: set[str], required: set[str]) -> None:
    """Refuse an entry that lacks a required key or has an unknown one."""
    name = entry.get("name", entry.get("code", "?"))
    if missing := sorted(required - entry.keys()):
        raise InputError(f"{file}: the entry {name!r} lacks {', '.join(missing)}")
    if unknown := sorted(map(str, entry.keys() - known)):
        hint = did_you_mean(unknown[0], known)
        raise InputError(
            f"{file}: the entry {name!r} has the unknown key {', '.join(unknown)}{hint}"
        )


def no_twins(file: Path, names: list[str]) -> None:
    """Refuse a name that is there more than once."""
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InputError(f"{file}: {', '.join(twins)} is there more than once")
