"""``data_contracts/tasks.yaml`` and ``signals.yaml`` as objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from m3h_core.tasks import TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.paths import contracts_folder

# Ten times as fast, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TASK_KEYS = {"name", "problem", "department", "unit", "definition", "classes", "icd9", "icd10", "column"}
_SIGNAL_KEYS = {"code", "kind", "unit", "mimic_iv", "low", "high"}


@dataclass(frozen=True)
class TaskRule:
    """A task and what decides its label: billing codes by prefix, a derived column, or nothing (clustering)."""

    spec: TaskSpec
    icd9: tuple[str, ...] = ()
    icd10: tuple[str, ...] = ()
    column: str | None = None


@dataclass(frozen=True)
class Signal:
    """One code of the events table: its canonical unit, plausible range [low, high] and MIMIC-IV's item ids."""

    code: str
    kind: str
    unit: str
    mimic_iv: tuple[int, ...]
    low: float
    high: float


def load_tasks(file: Path | None = None, only: Collection[str] | None = None) -> list[TaskRule]:
    """The tasks in the file's order; with ``only``, those names alone.

    >>> rules = load_tasks()
    >>> len(rules), rules[0].spec.name, rules[0].icd10
    (44, 'heart_failure', ('I50',))
    >>> [rule.spec.name for rule in load_tasks(only={"phenotype", "gout"})]
    ['gout', 'phenotype']
    """
    file = file or contracts_folder() / "tasks.yaml"
    rules = [_task_rule(file, entry) for entry in _entries(file, "tasks")]
    _no_twins(file, [rule.spec.name for rule in rules])
    if only is None:
        return rules
    unknown = sorted(set(only) - {rule.spec.name for rule in rules})
    if unknown:
        raise InputError(f"{file}: there is no task {', '.join(unknown)}")
    return [rule for rule in rules if rule.spec.name in only]


def load_signals(file: Path | None = None) -> list[Signal]:
    """The codes that enter the events table, in the file's order.

    >>> load_signals()[0].code, load_signals()[0].mimic_iv
    ('heart_rate', (220045,))
    """
    file = file or contracts_folder() / "signals.yaml"
    signals = []
    for entry in _entries(file, "signals"):
        _check_keys(file, entry, _SIGNAL_KEYS, required=_SIGNAL_KEYS)
        items = tuple(entry.pop("mimic_iv"))
        signals.append(Signal(mimic_iv=items, **entry))
    _no_twins(file, [signal.code for signal in signals])
    return signals


def _entries(file: Path, key: str) -> list[dict[str, Any]]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise InputError(f"{file} is not there") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid YAML: {str(error).splitlines()[0]}") from None
    entries = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise InputError(f"{file} needs a list under the key {key!r}")
    return entries


def _task_rule(file: Path, entry: dict[str, Any]) -> TaskRule:
    _check_keys(file, entry, _TASK_KEYS, required={"name", "problem"})
    rule = {key: entry[key] for key in ("icd9", "icd10", "column") if key in entry}
    try:
        spec = TaskSpec(**{key: value for key, value in entry.items() if key not in rule})
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    codes = {key: tuple(str(code).replace(".", "").upper() for code in rule.get(key, ())) for key in ("icd9", "icd10")}
    coded = bool(codes["icd9"] or codes["icd10"])
    if spec.problem == "clustering":
        if coded or "column" in rule:
            raise InputError(f"{file}: task {spec.name!r} is a clustering: it takes no codes and no column")
    elif coded == ("column" in rule):
        raise InputError(f"{file}: task {spec.name!r} needs either a column or ICD prefixes (icd9, icd10)")
    if coded and spec.problem != "binary":
        raise InputError(f"{file}: task {spec.name!r} has ICD prefixes, so its problem must be binary")
    return TaskRule(spec, column=rule.get("column"), **codes)


def _check_keys(file: Path, entry: dict[str, Any], known: set[str], required: set[str]) -> None:
    name = entry.get("name", entry.get("code", "?"))
    if missing := sorted(required - entry.keys()):
        raise InputError(f"{file}: the entry {name!r} lacks {', '.join(missing)}")
    if unknown := sorted(entry.keys() - known):
        raise InputError(f"{file}: the entry {name!r} has the unknown key {', '.join(unknown)}")


def _no_twins(file: Path, names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InputError(f"{file}: {', '.join(twins)} is there more than once")
