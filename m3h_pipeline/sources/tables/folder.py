"""Which tables a hospital's folder holds, and what to do where one is missing or misspelt."""

from __future__ import annotations

import difflib
from pathlib import Path

from m3h_pipeline.errors import SIMILAR, InputError, suggest_similar
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.sources.raw_tables import SUFFIXES, RawTable, open_table
from m3h_pipeline.sources.raw_tables.headers import describe_columns, suggest_renamings
from m3h_pipeline.sources.tables.cohort_file import FILE, CohortFile
from m3h_pipeline.sources.tables.formats import (
    FORMATS,
    OTHER_NAMES,
    REQUIRED_TABLES,
    collect_vocabulary,
)

_NAMES_OF_AVAILABLE_TIME = {"available_time": OTHER_NAMES["available_time"]}


def open_tables(folder: Path, cohort: CohortFile) -> dict[str, RawTable]:
    """The tables of a folder by name; an `InputError` says which file or column is missing."""
    tables = {}
    for table in FORMATS:
        file = _find_table(folder, table)
        if file is not None:
            tables[table] = _open_table(folder, file, table, cohort)
    _check_declared_columns(folder, tables["samples"], cohort)
    return tables


def _open_table(folder: Path, file: Path, table: str, cohort: CohortFile) -> RawTable:
    file_format = FORMATS[table]
    others = {*file_format.optional, *cohort.columns.declared}
    raw = open_table(folder, file, file_format.needed, OTHER_NAMES, others)
    unasked = set(raw.columns) - others - set(file_format.needed)
    # A misspelt optional column would be left out in silence, and with available_time the future
    # let in.
    absent = [name for name in file_format.optional if name not in raw.columns]
    if advice := suggest_renamings(absent, unasked, _NAMES_OF_AVAILABLE_TIME):
        raise InputError(
            f"{file} has no column {', '.join(absent)}, but one that is much alike: {advice}"
        )
    return raw


def _check_declared_columns(folder: Path, samples: RawTable, cohort: CohortFile) -> None:
    missing = [name for name in cohort.columns.declared if name not in samples.columns]
    if not missing:
        return
    candidates = set(samples.columns) - set(FORMATS["samples"].needed)
    hint = suggest_similar(missing[0], candidates, SIMILAR)
    if not hint:
        hint = f"; {describe_columns(samples.columns, collect_vocabulary(cohort))}"
    raise InputError(f"{folder / FILE}: {samples.name} has no column {', '.join(missing)}{hint}")


def _find_table(folder: Path, table: str) -> Path | None:
    """The file of a table; an `InputError` where there are two, or one that is likely to be
    meant.
    """
    candidates = [folder / f"{table}{suffix}" for suffix in SUFFIXES]
    files = [file for file in candidates if is_regular_file(file)]
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise InputError(f"{folder} has {names}: keep one of them")
    if files:
        return files[0]
    similar_file = _find_similar_file(folder, table)
    if similar_file is None and table not in REQUIRED_TABLES:
        return None
    if similar_file:
        advice = f"is it {similar_file}? Save it under that name"
    else:
        columns = ", ".join(FORMATS[table].needed)
        advice = f"write it; its columns are {columns} (docs/sources/tables.md)"
    raise InputError(f"{folder} has no {table}.csv (or {table}.csv.gz, {table}.parquet): {advice}")


def _find_similar_file(folder: Path, table: str) -> str | None:
    """The name of a file that is nearly a table's.

    No other is told: what else lies there may be named by a patient.
    """
    names = {_stem(file.name): file.name for file in folder.iterdir() if file.is_file()}
    names.pop("", None)
    if table in names:
        return names[table]
    candidates = [stem for stem in names if stem not in FORMATS]
    matches = difflib.get_close_matches(table, candidates, 1, SIMILAR)
    return names[matches[0]] if matches else None


def _stem(name: str) -> str:
    """A table's name without its ending, in lower case; empty where the ending is that of no table.

    >>> _stem("Samples.csv.gz"), _stem("labels.txt")
    ('samples', '')
    """
    name = name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    return name.removesuffix(suffix) if suffix else ""
