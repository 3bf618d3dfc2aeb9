"""The types of rules that a contract may have: Great Expectations' own, each with the Polars
expression that is true where a row is wrong.

A type on single rows is a function here; its parameters are the arguments that Great Expectations
takes. As there, a missing value breaks no rule but the one that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

NOT_NULL = "expect_column_values_to_not_be_null"
NO_MATCH = "expect_column_values_to_not_match_regex"
UNIQUE = "expect_column_values_to_be_unique"
COMPOUND_UNIQUE = "expect_compound_columns_to_be_unique"
ROW_COUNT = "expect_table_row_count_to_be_between"


def _is_null(*, column: str) -> pl.Expr:
    return pl.col(column).is_null()


def _is_outside(
    *, column: str, min_value: float | None = None, max_value: float | None = None
) -> pl.Expr:
    wrong = pl.lit(False)
    if min_value is not None:
        wrong |= pl.col(column) < min_value
    if max_value is not None:
        wrong |= pl.col(column) > max_value
    return wrong


def _is_not_in_set(*, column: str, value_set: list[Any]) -> pl.Expr:
    return ~pl.col(column).is_in(value_set)


def _matches(*, column: str, regex: str) -> pl.Expr:
    # In Python's dialect, which Great Expectations uses, $ also matches before a last line break:
    # end no pattern so.
    return pl.col(column).str.contains(regex)


def _is_a_below_b(*, column_A: str, column_B: str, or_equal: bool, ignore_row_if: str) -> pl.Expr:
    _check_ignore_row_if(ignore_row_if)
    a = pl.col(column_A)
    b = pl.col(column_B)
    return a < b if or_equal else a <= b


def _is_unequal(*, column_A: str, column_B: str, ignore_row_if: str) -> pl.Expr:
    _check_ignore_row_if(ignore_row_if)
    return pl.col(column_A) != pl.col(column_B)


def _is_repeated(*, column: str) -> pl.Expr:
    return ~pl.col(column).is_first_distinct()


def _are_repeated(*, column_list: list[str]) -> pl.Expr:
    return ~pl.struct(column_list).is_first_distinct()


def _check_ignore_row_if(ignore_row_if: str) -> None:
    if ignore_row_if != "either_value_is_missing":
        raise ValueError("a rule on two columns needs ignore_row_if: either_value_is_missing")


ON_ROWS: dict[str, Callable[..., pl.Expr]] = {
    NOT_NULL: _is_null,
    NO_MATCH: _matches,
    UNIQUE: _is_repeated,
    COMPOUND_UNIQUE: _are_repeated,
    "expect_column_values_to_be_between": _is_outside,
    "expect_column_values_to_be_in_set": _is_not_in_set,
    "expect_column_pair_values_a_to_be_greater_than_b": _is_a_below_b,
    "expect_column_pair_values_to_be_equal": _is_unequal,
}
ON_TABLES = (ROW_COUNT, "expect_column_distinct_values_to_contain_set")
