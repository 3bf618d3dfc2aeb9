"""A contract as the pipeline uses it: columns, rules, and bounds of the table as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from m3h_pipeline.contracts.checks import CONTRACT_CHECKS
from m3h_pipeline.contracts.expectations import ON_ROWS, ROW_COUNT

TABLES = ("samples", "events", "codes", "notes", "images", "labels", "embeddings")
# What ingestion adds to each row so that a wrong one can be found again; not part of the contract.
PROVENANCE = {"source_file": pl.String(), "source_row": pl.Int64(), "parse_errors": pl.String()}
# What a relationship may refer to, and the columns that rules then see as <table>_<column>.
LOOKUP_COLUMNS = {
    "samples": ("stay_id", "sample_id", "admit_time", "discharge_time"),
    "signals": ("code", "unit", "low", "high"),
    "tasks": ("name", "problem", "last_class"),
    "files": ("path", "bytes"),
}


@dataclass(frozen=True)
class Rule:
    """One rule of a contract: a Great Expectations type with its arguments."""

    name: str
    description: str
    severity: str
    type: str
    kwargs: Mapping[str, Any]

    @property
    def on_rows(self) -> bool:
        """True where single rows keep or break the rule; false where only the table as a whole
        does.
        """
        return self.type in ON_ROWS and "mostly" not in self.kwargs

    @property
    def columns(self) -> list[str]:
        """The columns that the rule looks at."""
        keys = [key for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return [self.kwargs[key] for key in keys] + list(self.kwargs.get("column_list", ()))

    @property
    def expectation(self) -> dict[str, Any]:
        """The same rule as Great Expectations reads it."""
        severity = {"error": "critical", "warning": "warning"}[self.severity]
        return {
            "type": self.type,
            "kwargs": dict(self.kwargs),
            "severity": severity,
            "description": self.description,
            "meta": {"name": self.name},
        }


@dataclass(frozen=True)
class Bound:
    """A bound of the table as a whole: of the quarantine, or against the last snapshot
    (m3h_pipeline/contracts/changes.py).
    """

    severity: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Contract:
    """A contract as the pipeline uses it; rules are in the order in which the first one that fails
    names the reason.

    ``columns``: the table's columns and types; ``optional``: those of them that a table may lack;
    ``relationships``: column -> (lookup table, its column); ``computed``: column -> SQL; ``open``:
    columns beyond these are passed on; ``bounds``: of the table as a whole; ``freshness``: a time
    column and how many days old its newest value may be; ``about``: what each column holds, in
    words.
    """

    table: str
    columns: Mapping[str, pl.DataType]
    about: Mapping[str, str]
    optional: frozenset[str]
    open: bool
    relationships: Mapping[str, tuple[str, str]]
    computed: Mapping[str, str]
    rules: tuple[Rule, ...]
    bounds: Mapping[str, Bound]
    freshness: tuple[str, int] | None
    verified_rows: int

    def rules_for(self, columns: Iterable[str]) -> list[Rule]:
        """The rules that can be judged on a table with these columns (optional ones may be
        absent).
        """
        absent = self.optional - set(columns)
        return [rule for rule in self.rules if absent.isdisjoint(rule.columns)]

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of the checks that the contract asks for, in the order in which they are
        reported.
        """
        is_asked = {
            "volume": any(rule.type == ROW_COUNT for rule in self.rules),
            "warnings": any(rule.severity == "warning" for rule in self.rules),
            "change_in_volume": "volume_change" in self.bounds,
            "distribution": "distribution_shift" in self.bounds,
            "freshness": self.freshness is not None,
        }
        return tuple(name for name in CONTRACT_CHECKS if is_asked.get(name, True))
