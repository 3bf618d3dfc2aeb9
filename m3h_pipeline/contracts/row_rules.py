"""A contract's rules on single rows as Polars expressions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from m3h_pipeline.contracts.expectations import ON_ROWS
from m3h_pipeline.contracts.model import Contract, Rule


@dataclass(frozen=True)
class RowRule:
    """A rule on single rows; ``expression`` is true where the row is wrong, and never null."""

    name: str
    reason: str
    severity: str
    expression: pl.Expr


def to_row_rule(rule: Rule) -> RowRule:
    """The rule as an expression; a `ValueError` where its arguments are not those of its type."""
    try:
        wrong = ON_ROWS[rule.type](**rule.kwargs)
    except TypeError as error:
        raise ValueError(f"{rule.name}: {rule.type}: {str(error).partition(' ')[2]}") from None
    # As in Great Expectations, a missing value breaks no rule but the one that asks for it.
    return RowRule(rule.name, rule.description, rule.severity, wrong.fill_null(False))


def build_row_rules(contract: Contract, columns: Iterable[str] | None = None) -> list[RowRule]:
    """The contract's rules on single rows, for a table with these columns (default: all of the
    contract's).

    >>> from m3h_pipeline.contracts.odcs import load_contract
    >>> [rule.name for rule in build_row_rules(load_contract("labels"))][-3:]
    ['class_beyond_last', 'infinite_label', 'duplicate_key']
    """
    columns = contract.columns if columns is None else columns
    return [to_row_rule(rule) for rule in contract.rules_for(columns) if rule.on_rows]
