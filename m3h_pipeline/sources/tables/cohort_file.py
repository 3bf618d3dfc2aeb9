"""``cohort.yaml``: what a hospital says of its own tables; documented in docs/sources/tables.md."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.errors import InputError, suggest_similar
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.tasks_file import Signal, load_signals
from m3h_pipeline.sources.yaml_entries import (
    check_keys,
    list_entries,
    parse_task,
    refuse_duplicates,
)

FILE = "cohort.yaml"
_KEYS = {"timezone", "features", "audit", "categories", "tasks", "signals"}
_SIGNAL_KEYS = {"code", "unit", "low", "high"}
# A declared column goes by the name that its table's header has.
_COLUMN_NAME = re.compile(r"[^\x00-\x1f\"']{1,128}")
# DuckDB's planning grows faster than the columns: of 1,000 it takes a minute.
_MOST_COLUMNS = 500
# What the samples table holds beside declared columns.
_TAKEN = {
    *("sample_id", "stay_id", "subject_id"),
    *("admit_time", "discharge_time", "prediction_time", "split"),
    *("source_file", "source_row", "parse_errors", "broken", "reason"),
}
_TAKEN_ENDINGS = ("_utc", "_left_out")


@dataclass(frozen=True)
class CohortFile:
    """A checked ``cohort.yaml``.

    ``categories``: columns of numbers that are codes, not quantities. ``derived_from``: task ->
    kinds of notes that its labels come from. ``signals``: codes of the hospital's own, with unit
    and plausible range.
    """

    timezone: str
    columns: Columns
    categories: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    derived_from: Mapping[str, tuple[str, ...]]
    signals: tuple[Signal, ...]


def load_cohort_file(folder: Path) -> CohortFile:
    """Read and check a folder's ``cohort.yaml``; an `InputError` names the key that is wrong and
    what to write.
    """
    file = folder / FILE
    if not is_regular_file(file):
        raise InputError(
            f"{file} is not there: it says the time zone, the features and the tasks; copy the one "
            "in docs/sources/tables.md"
        )
    content = read_yaml(file)
    if unknown := sorted(map(str, content.keys() - _KEYS)):
        raise InputError(
            f"{file}: there is no key {unknown[0]}{suggest_similar(unknown[0], _KEYS)}"
        )
    features = _read_names(file, content, "features")
    audit = _read_names(file, content, "audit")
    categories = _read_names(file, content, "categories")
    tasks, derived_from = _read_tasks(file, content)
    cohort = CohortFile(
        timezone=_read_timezone(file, content),
        columns=_make_columns(file, features, audit),
        categories=categories,
        tasks=tasks,
        derived_from=derived_from,
        signals=_read_signals(file, content),
    )
    if undeclared := [name for name in categories if name not in cohort.columns.declared]:
        raise InputError(
            f"{file}: categories: {undeclared[0]} is neither under features nor under audit"
        )
    if labels := sorted({task.name.lower() for task in tasks} & set(features)):
        raise InputError(
            f"{file}: {labels[0]} is a task, so it can't be a feature: take it out of features"
        )
    return cohort


def _read_timezone(file: Path, content: Mapping[str, Any]) -> str:
    zone = content.get("timezone")
    if zone is None:
        raise InputError(
            f"{file} needs a line that says which time zone times without an offset are in, such "
            "as `timezone: Europe/Berlin` for local times, or `timezone: UTC`"
        )
    try:
        return ZoneInfo(zone).key
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        hint = suggest_similar(str(zone), available_timezones())
        raise InputError(
            f"{file}: timezone {zone!r} is not known{hint or ';'} write it as UTC or Europe/Berlin"
        ) from None


def _read_names(file: Path, content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = content.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: {key} must be a list of column names: {key}: [age, sex]")
    names = [name.strip().lower() for name in names]
    refuse_duplicates(file, names)
    if odd := [name for name in names if not _COLUMN_NAME.fullmatch(name)]:
        raise InputError(
            f"{file}: {key}: {odd[0]!r} is no name for a column: rename it, without quotes"
        )
    return tuple(names)


def _make_columns(file: Path, features: tuple[str, ...], audit: tuple[str, ...]) -> Columns:
    try:
        columns = Columns(features, audit)
    except InputError as error:
        raise InputError(f"{file}: {error}: take it out of features") from None
    if len(columns.declared) > _MOST_COLUMNS:
        raise InputError(
            f"{file} names {len(columns.declared):,} features and audit columns, more than the "
            f"{_MOST_COLUMNS} that can be read as columns: take the most telling ones, and give "
            "wide data as vectors in embeddings"
        )
    if taken := [
        name for name in columns.declared if name in _TAKEN or name.endswith(_TAKEN_ENDINGS)
    ]:
        raise InputError(
            f"{file}: {taken[0]} can't be a feature or an audit column: the samples table uses "
            "that name"
        )
    return columns


def _read_tasks(
    file: Path, content: Mapping[str, Any]
) -> tuple[tuple[TaskSpec, ...], dict[str, tuple[str, ...]]]:
    tasks = []
    derived_from = {}
    for entry in list_entries(file, content, "tasks"):
        task, kinds = parse_task(file, entry)
        tasks.append(task)
        if kinds:
            derived_from[task.name] = kinds
    refuse_duplicates(file, [task.name for task in tasks])
    return tuple(tasks), derived_from


def _read_signals(file: Path, content: Mapping[str, Any]) -> tuple[Signal, ...]:
    if not content.get("signals"):
        return ()
    signals = []
    for entry in list_entries(file, content, "signals"):
        check_keys(file, entry, _SIGNAL_KEYS, required={"code", "unit"})
        low = entry.get("low", -math.inf)
        high = entry.get("high", math.inf)
        if not _is_number(low) or not _is_number(high):
            raise InputError(f"{file}: signal {entry['code']}: low and high must be numbers")
        signals.append(Signal(str(entry["code"]), "own", str(entry["unit"]), (), low, high))
    refuse_duplicates(file, [signal.code for signal in signals])
    own_codes = {signal.code for signal in signals}
    known_codes = {signal.code for signal in load_signals()}
    if twins := sorted(own_codes & known_codes):
        raise InputError(
            f"{file}: signals: {twins[0]} has its unit and range in data_contracts/signals.yaml "
            "already"
        )
    return tuple(signals)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
