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
from typing import TYPE_CHECKING

import polars as pl

from m3h_pipeline.state.permissions import create_private_file

if TYPE_CHECKING:
    from m3h_pipeline.contracts import Contract

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


def csv_beside(quarantine: Path) -> Path:
    """The CSV file of a Parquet file of quarantined rows."""
    return quarantine.with_suffix(".csv")


def write_quarantine_csv(
    quarantine: Path, columns_of_rule: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write the CSV file beside a Parquet file of quarantined rows, for its owner alone; returns
    it.

    Its columns are rule, reason, field (the column or columns that are wrong), raw_value (what they
    hold), source_file, source_row and those of the row. ``columns_of_rule``: those that a rule
    looks at (default: as the contracts say).
    """
    to = csv_beside(quarantine)
    partial = to.with_name(f".{to.name}.partial")
    create_private_file(partial)
    rows = pl.scan_parquet(quarantine)
    names = _names(rows)
    of_rule = known_columns() if columns_of_rule is None else columns_of_rule
    total = rows.select(pl.len()).collect().item()
    with partial.open("wb") as stream:
        # What tells a spreadsheet that this is UTF-8.
        stream.write("\ufeff".encode())
        for start in range(0, max(total, 1), _ROWS):
            part = _table(rows.slice(start, _ROWS).collect(), names, of_rule)
            part.write_csv(stream, include_header=start == 0, quote_style="always")
    os.replace(partial, to)
    return to


@cache
def known_columns() -> dict[str, list[str]]:
    """Rule -> the table's own columns that it looks at, of all contracts; rules of one name look at
    the same.
    """
    from m3h_pipeline.contracts import TABLES, load_contract

    return {
        rule: columns
        for table in TABLES
        for rule, columns in columns_of_rules(load_contract(table)).items()
    }


def columns_of_rules(contract: Contract) -> dict[str, list[str]]:
    """Rule -> the table's own columns that it looks at."""
    own = {name: name for name in contract.columns}
    # What a rule sees of another table comes by the column that refers to it.
    own |= {f"{to}_{key}": column for column, (to, key) in contract.relationships.items()}
    return {
        rule.name: [own[column] for column in rule.columns if column in own]
        for rule in contract.rules
    }


def _names(rows: pl.LazyFrame) -> list[str]:
    """The columns of the quarantined rows, in their order."""
    first = rows.select("row").head(1).collect().to_series()
    return (
        list(pl.Series(first).str.json_decode(infer_schema_length=None).struct.fields)
        if len(first)
        else []
    )


def _table(
    rows: pl.DataFrame, names: Sequence[str], of_rule: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    fields = [
        _field(rule, reason, of_rule) for rule, reason in rows.select("rule", "reason").iter_rows()
    ]
    shown = rows.select(
        "rule",
        pl.col("reason").str.replace_all(_RAW, ""),
        pl.Series("field", [", ".join(columns) for columns, _ in fields], dtype=pl.String),
        pl.Series("raw_value", [raw for _, raw in fields], dtype=pl.String),
        "source_file",
        "source_row",
        *(pl.col("row").str.json_path_match(f"$['{name}']").alias(f"row.{name}") for name in names),
    )
    in_row = pl.lit(None, pl.String)
    for name in names:
        in_row = pl.when(pl.col("field") == name).then(pl.col(f"row.{name}")).otherwise(in_row)
    shown = shown.with_columns(pl.coalesce("raw_value", in_row))
    return shown.select(
        spreadsheet_safe(pl.col(name)) if name != "source_row" else name for name in shown.columns
    )


def _field(
    rule: str, reason: str, of_rule: Mapping[str, Sequence[str]]
) -> tuple[list[str], str | None]:
    """The columns that are wrong, and what they held where the reason says so.

    >>> _field("unreadable_field", "These fields could not be read: value: not a number (raw value “12,5”)", {})
    (['value'], '12,5')
    >>> _field("unknown_stay", "The stay must be one of the samples table.", {"unknown_stay": ["stay_id"]})
    (['stay_id'], None)
    """
    if rule in of_rule:
        return list(of_rule[rule]), None
    parts = _UNREADABLE.findall(reason.partition("could not be read: ")[2])
    raw = "; ".join(text for _, text in parts if text) or None
    return [name.strip() for name, _ in parts], raw


def spreadsheet_safe(text: pl.Expr) -> pl.Expr:
    """The text without what a spreadsheet would run: an apostrophe stands before it.

    >>> cells = pl.DataFrame({"x": ["=1+1", "-5", "-5+A1", " @SUM(A1)", "fever", None]})
    >>> cells.select(spreadsheet_safe(pl.col("x")))["x"].to_list()
    ["'=1+1", '-5', "'-5+A1", "' @SUM(A1)", 'fever', None]
    """
    short = text.str.slice(0, _LONGEST)
    runs = short.str.contains(_FORMULA) & ~short.str.contains(_NUMBER)
    return pl.when(runs).then(pl.lit("'") + short).otherwise(short).name.keep()
