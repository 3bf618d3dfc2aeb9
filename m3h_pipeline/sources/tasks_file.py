"""``data_contracts/tasks.yaml`` and ``signals.yaml`` as objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.yaml_entries import (
    check_keys,
    list_entries,
    parse_task,
    refuse_duplicates,
)
from m3h_pipeline.state.paths import contracts_folder

# What an entry of tasks.yaml says beside the task: what decides its label.
_RULE_KEYS = ("icd9", "icd10", "column")
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
    rules = [_parse_rule(file, entry) for entry in list_entries(file, read_yaml(file), "tasks")]
    refuse_duplicates(file, [rule.spec.name for rule in rules])
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


def read_tasks(folder: Path) -> list[TaskSpec]:
    """The tasks of a step that holds ``tasks.json``, in order."""
    records = json.loads((folder / "tasks.json").read_text())
    return [TaskSpec.from_dict(record) for record in records]


def gives_away(rules: Iterable[TaskRule]) -> frozenset[str]:
    """Kinds of notes that give a label of these tasks away.

    They are taken out for the whole cohort, not for one task: attention would carry them over to
    it.

    >>> a, b = TaskSpec("a", "binary"), TaskSpec("b", "binary")
    >>> gives_away([TaskRule(a, derived_from=("radiology",)), TaskRule(b)])
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
    for entry in list_entries(file, read_yaml(file), "signals"):
        check_keys(file, entry, _SIGNAL_KEYS, required=_SIGNAL_KEYS)
        items = tuple(entry.pop("mimic_iv"))
        signals.append(Signal(mimic_iv=items, **entry))
    refuse_duplicates(file, [signal.code for signal in signals])
    return signals


def _parse_rule(file: Path, entry: Mapping[str, Any]) -> TaskRule:
    spec, kinds = parse_task(file, entry, other_keys=_RULE_KEYS)
    icd9 = _parse_codes(entry.get("icd9", ()))
    icd10 = _parse_codes(entry.get("icd10", ()))
    is_coded = bool(icd9 or icd10)
    has_column = "column" in entry
    if spec.problem == "clustering":
        if is_coded or has_column:
            raise InputError(
                f"{file}: task {spec.name!r} is a clustering: it takes no codes and no column"
            )
    elif is_coded == has_column:
        raise InputError(
            f"{file}: task {spec.name!r} needs either a column or ICD prefixes (icd9, icd10)"
        )
    if is_coded and spec.problem != "binary":
        raise InputError(
            f"{file}: task {spec.name!r} has ICD prefixes, so its problem must be binary"
        )
    return TaskRule(spec, icd9, icd10, entry.get("column"), kinds)


def _parse_codes(codes: Iterable[object]) -> tuple[str, ...]:
    """Prefixes of codes as sources spell them: upper case, no dot."""
    return tuple(str(code).replace(".", "").upper() for code in codes)
