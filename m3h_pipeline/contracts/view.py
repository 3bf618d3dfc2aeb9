"""A table as its contract's rules see it: with looked-up and computed columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.model import LOOKUP_COLUMNS, PROVENANCE, Contract
from m3h_pipeline.sources.tasks_file import load_signals

# The last class of a problem that has no classes of its own to count; None: any number is right.
_LAST_CLASS = {"binary": 1, "regression": None, "clustering": None}


def build_lookups(
    contract: Contract,
    rows: pl.LazyFrame,
    samples: Path | None,
    tasks: Sequence[TaskSpec],
    signals: Sequence[Mapping[str, Any]] = (),
) -> dict[str, pl.LazyFrame]:
    """Column with a relationship -> what it refers to: its key once more as that column, and
    <table>_<column>.
    """
    frames = {}
    for column, (to, key) in contract.relationships.items():
        if to == "samples":
            frame = _scan_samples(contract, samples)
        elif to == "tasks":
            frame = _list_tasks(tasks)
        elif to == "signals":
            frame = _list_signals(signals)
        else:
            frame = _list_files(rows, column)
        unique = frame.unique(key, keep="first", maintain_order=True)
        renamed = unique.rename({name: f"{to}_{name}" for name in LOOKUP_COLUMNS[to]})
        frames[column] = renamed.with_columns(pl.col(f"{to}_{key}").alias(column))
    return frames


def _scan_samples(contract: Contract, samples: Path | None) -> pl.LazyFrame:
    if samples is None:
        raise ValueError(f"{contract.table} refers to samples: say where the valid ones are")
    return pl.scan_parquet(samples).select(LOOKUP_COLUMNS["samples"])


def _list_tasks(tasks: Sequence[TaskSpec]) -> pl.LazyFrame:
    entries = [
        (task.name, task.problem, _LAST_CLASS.get(task.problem, (task.n_classes or 0) - 1))
        for task in tasks
    ]
    schema = {"name": pl.String, "problem": pl.String, "last_class": pl.Float64}
    return pl.LazyFrame(entries, schema, orient="row")


def _list_signals(own_signals: Sequence[Mapping[str, Any]]) -> pl.LazyFrame:
    """The signals of signals.yaml and the hospital's own."""
    entries: list[tuple[Any, ...]] = [
        (signal.code, signal.unit, float(signal.low), float(signal.high))
        for signal in load_signals()
    ]
    entries += [
        (signal["code"], signal["unit"], signal["low"], signal["high"]) for signal in own_signals
    ]
    schema = {"code": pl.String, "unit": pl.String, "low": pl.Float64, "high": pl.Float64}
    return pl.LazyFrame(entries, schema, orient="row")


def _list_files(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """The files that a column names, of those that can be read, with their sizes."""
    paths = rows.select(pl.col(column).cast(pl.String).drop_nulls().unique().sort())
    sizes = []
    for path in paths.collect().to_series():
        size = _get_file_size(path)
        if size is not None:
            sizes.append((path, size))
    return pl.LazyFrame(sizes, {"path": pl.String, "bytes": pl.Int64}, orient="row")


def _get_file_size(path: str) -> int | None:
    """Bytes of a file; None where there is none, or it can't be read."""
    try:
        is_readable = os.access(path, os.R_OK) and os.path.isfile(path)
        return os.stat(path).st_size if is_readable else None
    except (OSError, ValueError):
        return None


def build_view(
    contract: Contract, rows: pl.LazyFrame, lookups: Mapping[str, pl.LazyFrame]
) -> pl.LazyFrame:
    """The rows with their types, looked-up and computed columns: what rules see. Not-a-number
    counts as missing.
    """
    schema = rows.collect_schema()
    types = dict(contract.columns) | PROVENANCE
    rows = rows.with_columns(_cast(name, dtype) for name, dtype in types.items() if name in schema)
    for column, lookup in lookups.items():
        rows = rows.join(lookup, on=column, how="left", maintain_order="left")
    return rows.with_columns(
        pl.sql_expr(sql).alias(name) for name, sql in contract.computed.items()
    )


def _cast(name: str, dtype: pl.DataType) -> pl.Expr:
    cast = pl.col(name).cast(dtype)
    return cast.fill_nan(None) if dtype.is_float() else cast
