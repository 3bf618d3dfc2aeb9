"""The quarantine as a spreadsheet reads it: one CSV file beside each Parquet file, with the field
that is wrong.

Of the two the Parquet file counts; the CSV file is made from it, also anew when a patient is
erased. No cell begins a formula, for a spreadsheet would run what a source's field holds; numbers
stay numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import polars as pl

from m3h_pipeline.contracts.model import TABLES, Contract
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.state.permissions import create_private_file

# What a field says that could not be read, within its reason; the sources write it by the macro of
# the same form.
_UNREADABLE = re.compile(r"(?:^|; )([\w, *]+): [^;“]*?(?: \(raw value “([^”]*)”\))?(?=;|$)")
_RAW = r" \(raw value “[^”]*”\)"
# A spreadsheet takes a cell that begins so, whatever blanks come before, for a formula.
_FORMULA = r"^[\s\x00]*[=+\-@\t\r＝＋－＠]"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# No spreadsheet takes more than 32,767 characters in a cell; a note's whole text is in the Parquet
# file.
_LONGEST = 2000
_ROWS = 50_000


def get_csv_path(quarantine: Path) -> Path:
    """The CSV file of a Parquet file of quarantined rows."""
    return quarantine.with_suffix(".csv")


def write_quarantine_csv(
    quarantine: Path, columns_by_rule: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write the CSV file beside a Parquet file of quarantined rows, for its owner alone; returns
    it.

    Its columns are rule, reason, field (the column or columns that are wrong), raw_value (what they
    hold), source_file, source_row and those of the row. ``columns_by_rule``: those that a rule
    looks at (default: as the contracts say).
    """
    to = get_csv_path(quarantine)
    partial = to.with_name(f".{to.name}.partial")
    create_private_file(partial)
    rows = pl.scan_parquet(quarantine)
    names = _read_column_names(rows)
    if columns_by_rule is None:
        columns_by_rule = map_all_rules_to_columns()
    total = rows.select(pl.len()).collect().item()
    with partial.open("wb") as stream:
        # What tells a spreadsheet that this is UTF-8.
        stream.write("\ufeff".encode())
        for start in range(0, max(total, 1), _ROWS):
            batch = _to_csv_rows(rows.slice(start, _ROWS).collect(), names, columns_by_rule)
            batch.write_csv(stream, include_header=start == 0, quote_style="always")
    os.replace(partial, to)
    return to


@cache
def map_all_rules_to_columns() -> dict[str, list[str]]:
    """Rule -> the table's own columns that it looks at, of all contracts; rules of one name look at
    the same.
    """
    columns_by_rule: dict[str, list[str]] = {}
    for table in TABLES:
        columns_by_rule |= map_rules_to_columns(load_contract(table))
    return columns_by_rule


def map_rules_to_columns(contract: Contract) -> dict[str, list[str]]:
    """Rule -> the table's own columns that it looks at."""
    own_column = {name: name for name in contract.columns}
    # What a rule sees of another table comes by the column that refers to it.
    for column, (to, key) in contract.relationships.items():
        own_column[f"{to}_{key}"] = column
    columns_by_rule = {}
    for rule in contract.rules:
        visible = [column for column in rule.columns if column in own_column]
        columns_by_rule[rule.name] = [own_column[column] for column in visible]
    return columns_by_rule


def _read_column_names(rows: pl.LazyFrame) -> list[str]:
    """The columns of the quarantined rows, in their order."""
    first = rows.select("row").head(1).collect().to_series()
    if first.is_empty():
        return []
    return list(pl.Series(first).str.json_decode(infer_schema_length=None).struct.fields)


def _to_csv_rows(
    rows: pl.DataFrame, names: Sequence[str], columns_by_rule: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    wrong_fields = [
        _find_wrong_fields(rule, reason, columns_by_rule)
        for rule, reason in rows.select("rule", "reason").iter_rows()
    ]
    fields = [", ".join(columns) for columns, _ in wrong_fields]
    raw_values = [raw for _, raw in wrong_fields]
    shown = rows.select(
        "rule",
        pl.col("reason").str.replace_all(_RAW, ""),
        pl.Series("field", fields, dtype=pl.String),
        pl.Series("raw_value", raw_values, dtype=pl.String),
        "source_file",
        "source_row",
        *(pl.col("row").str.json_path_match(f"$['{name}']").alias(f"row.{name}") for name in names),
    )
    in_row = pl.lit(None, pl.String)
    for name in names:
        in_row = pl.when(pl.col("field") == name).then(pl.col(f"row.{name}")).otherwise(in_row)
    shown = shown.with_columns(pl.coalesce("raw_value", in_row))
    return shown.select(
        name if name == "source_row" else escape_formulas(pl.col(name)) for name in shown.columns
    )


def _find_wrong_fields(
    rule: str, reason: str, columns_by_rule: Mapping[str, Sequence[str]]
) -> tuple[list[str], str | None]:
    """The columns that are wrong, and what they held where the reason says so.

    >>> reason = "These fields could not be read: value: not a number (raw value “12,5”)"
    >>> _find_wrong_fields("unreadable_field", reason, {})
    (['value'], '12,5')
    >>> reason = "The stay must be one of the samples table."
    >>> _find_wrong_fields("unknown_stay", reason, {"unknown_stay": ["stay_id"]})
    (['stay_id'], None)
    """
    if rule in columns_by_rule:
        return list(columns_by_rule[rule]), None
    parts = _UNREADABLE.findall(reason.partition("could not be read: ")[2])
    raw = "; ".join(text for _, text in parts if text) or None
    return [name.strip() for name, _ in parts], raw


def escape_formulas(text: pl.Expr) -> pl.Expr:
    """The text without what a spreadsheet would run: an apostrophe stands before it.

    >>> cells = pl.DataFrame({"x": ["=1+1", "-5", "-5+A1", " @SUM(A1)", "fever", None]})
    >>> cells.select(escape_formulas(pl.col("x")))["x"].to_list()
    ["'=1+1", '-5', "'-5+A1", "' @SUM(A1)", 'fever', None]
    """
    short = text.str.slice(0, _LONGEST)
    is_formula = short.str.contains(_FORMULA) & ~short.str.contains(_NUMBER)
    return pl.when(is_formula).then(pl.lit("'") + short).otherwise(short).name.keep()
