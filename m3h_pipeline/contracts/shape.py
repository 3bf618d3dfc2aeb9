"""The shape that a contract asks of a table: which columns, of which type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from m3h_pipeline.contracts.model import PROVENANCE, Contract
from m3h_pipeline.errors import InputError


def name_type(dtype: pl.DataType) -> str:
    """A type in a data steward's words.

    >>> name_type(pl.Float32()), name_type(pl.String()), name_type(pl.Datetime("us"))
    ('a number', 'text', 'a time')
    """
    if dtype.is_numeric():
        return "a number"
    if dtype == pl.String:
        return "text"
    if dtype.is_temporal():
        return "a time"
    return "empty" if dtype == pl.Null else str(dtype)


def find_shape_problems(
    contract: Contract, schema: Mapping[str, pl.DataType], declared: Iterable[str]
) -> list[str]:
    """What is missing, extra or of another type, in a data steward's words."""
    expected = dict(contract.columns) | PROVENANCE
    problems = [f"the column {name} is missing" for name in _find_missing(contract, schema)]
    problems += [
        f"the column {name} is {name_type(schema[name])} ({schema[name]}), the contract says "
        f"{name_type(expected[name])} ({expected[name]})"
        for name in _find_mistyped(contract, schema)
    ]
    allowed = expected.keys() | (set(declared) if contract.open else set())
    problems += [
        f"the column {name} is neither in the contract nor declared in columns.json"
        for name in schema
        if name not in allowed
    ]
    return problems


def select_columns(contract: Contract, file: Path, schema: Mapping[str, pl.DataType]) -> list[str]:
    """The table's columns that go on, those of the contract first; an `InputError` where one is
    missing or has the wrong type.
    """
    expected = dict(contract.columns) | PROVENANCE
    missing = _find_missing(contract, schema)
    if missing:
        raise InputError(f"{contract.table}: {file} lacks the column {', '.join(missing)}")
    for name in _find_mistyped(contract, schema):
        raise InputError(
            f"{contract.table}: {file}: {name} is {schema[name]}, the contract says "
            f"{expected[name]}"
        )
    named = [name for name in contract.columns if name in schema]
    extra = [name for name in schema if contract.open and name not in expected]
    return named + extra


def _find_missing(contract: Contract, schema: Mapping[str, pl.DataType]) -> list[str]:
    expected = dict(contract.columns) | PROVENANCE
    return [name for name in expected if name not in schema and name not in contract.optional]


def _find_mistyped(contract: Contract, schema: Mapping[str, pl.DataType]) -> list[str]:
    """Columns of another type than the contract's; one without any value has no type of its own."""
    expected = dict(contract.columns) | PROVENANCE
    return [
        name
        for name, dtype in expected.items()
        if name in schema and schema[name] not in (dtype, pl.Null())
    ]
