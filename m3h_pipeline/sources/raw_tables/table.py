"""A table's file: where it lies, and whether its header and first row are what a source needs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import duckdb

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.encoding import refuse_another_encoding
from m3h_pipeline.files.gzip_file import BLOCK_SIZE
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.sources.raw_tables.csv_text import LONGEST_ROW, open_text
from m3h_pipeline.sources.raw_tables.headers import (
    describe_columns,
    format_count,
    join_names,
    list_positions,
    looks_like_row,
    suggest_left_over,
    suggest_renamings,
)
from m3h_pipeline.state.database import quote_literal

SUFFIXES = (".csv.gz", ".csv", ".parquet")
_MAX_BLANK_CHARACTERS = 1 << 26
# HAIM's file has 4,900; one that has far more is no table of rows, and DuckDB takes minutes to say
# so.
_MAX_COLUMNS = 20_000
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class RawTable:
    """One file of a source: its place, its name below the source's root, and its columns in lower
    case.
    """

    file: Path
    name: str
    columns: tuple[str, ...]

    @property
    def is_parquet(self) -> bool:
        """Parquet, else CSV."""
        return self.file.suffix == ".parquet"


def find_file(root: Path, *names: str) -> Path | None:
    """The first of these tables that is there, as csv.gz, csv or Parquet."""
    candidates = (root / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((file for file in candidates if is_regular_file(file)), None)


def open_table(
    root: Path,
    file: Path,
    needed: Iterable[str],
    other_names: Mapping[str, Sequence[str]] | None = None,
    others: Collection[str] | None = None,
) -> RawTable:
    """Look at a file's header and first row.

    ``other_names``: column -> what others call it. ``others``: the columns that it may have beside
    the needed ones, where any more are no part of it; a single one of these is then likely to be
    the one that is missing.

    Raises `InputError` where the file is unreadable, lacks a needed column or has no rows.
    """
    needed = list(needed)
    header, has_rows = _read_header(file)
    if len(header) > _MAX_COLUMNS:
        raise InputError(
            f"{file} has {len(header):,} columns, more than the {_MAX_COLUMNS:,} that a table may "
            "have: export it again, and give long vectors as embeddings"
        )
    # Pandas writes its index as a column without a name.
    names = (name.strip().lower() or f"column{i}" for i, name in enumerate(header))
    table = RawTable(file, file.relative_to(root).as_posix(), tuple(names))
    vocabulary = {*needed, *(others or ())}.union(*(other_names or {}).values())
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(
            _describe_missing_columns(table, missing, needed, vocabulary, other_names, others)
        )
    if twins := sorted({name for name in table.columns if table.columns.count(name) > 1}):
        names_of_twins = f" {', '.join(twins)}" if vocabulary.issuperset(twins) else ""
        positions = list_positions(table.columns, twins)
        raise InputError(
            f"{file} has a column{names_of_twins} twice (its columns {positions} have "
            "the same name): export the table again"
        )
    if not has_rows:
        raise InputError(f"{file} has a header but no rows: export the table again")
    return table


def _describe_missing_columns(
    table: RawTable,
    missing: Sequence[str],
    needed: Sequence[str],
    vocabulary: Collection[str],
    other_names: Mapping[str, Sequence[str]] | None,
    others: Collection[str] | None,
) -> str:
    columns = table.columns
    separator = _find_other_separator(columns[0]) if len(columns) == 1 else None
    if separator:
        return f"{table.file} is separated by {separator}: save it with commas"
    if looks_like_row(columns, needed):
        return (
            f"{table.file} lacks the column {join_names(missing)}; its first line "
            f"({format_count(len(columns))}) looks like a row, not like a header: export the "
            "table again with its header"
        )
    unasked = [name for name in columns if name not in needed]
    advice = (
        suggest_renamings(missing, unasked, other_names)
        or suggest_left_over(missing, columns, needed, others)
        or "export the table again, with its header"
    )
    return (
        f"{table.file} lacks the column {join_names(missing)}; "
        f"{describe_columns(columns, vocabulary)}: {advice}"
    )


def _find_other_separator(header: str) -> str | None:
    return next((name for mark, name in _OTHER_SEPARATORS.items() if mark in header), None)


def _read_header(file: Path) -> tuple[list[str], bool]:
    """Names of the columns, and whether there are rows."""
    try:
        if file.suffix == ".parquet":
            return _read_parquet_header(file)
        with open_text(file) as lines:
            first = lines.readline(LONGEST_ROW)
            has_rows = _has_rows(lines)
    except (OSError, duckdb.Error) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
        raise InputError(f"{file} can't be read ({cause}): copy it again") from None
    refuse_another_encoding(file)
    if "\0" in first:
        raise InputError(f"{file} is no text: save it as CSV UTF-8")
    if len(first) == LONGEST_ROW:
        raise InputError(
            f"{file} has a first line of more than {LONGEST_ROW:,} characters: that is no header; "
            "export the table again"
        )
    if not first.strip():
        raise InputError(f"{file} is empty: export the table again, with its header")
    csv.field_size_limit(LONGEST_ROW)
    return next(csv.reader([first])), has_rows


def _read_parquet_header(file: Path) -> tuple[list[str], bool]:
    with duckdb.connect() as connection:
        columns = connection.execute(
            f"DESCRIBE SELECT * FROM read_parquet({quote_literal(file)})"
        ).fetchall()
        n_rows = connection.execute(
            f"SELECT num_rows FROM parquet_file_metadata({quote_literal(file)})"
        ).fetchall()
    return [str(column[0]) for column in columns], n_rows[0][0] > 0


def _has_rows(lines: TextIO) -> bool:
    """Whether anything follows, within what a table may have of empty lines."""
    blocks = iter(lambda: lines.read(BLOCK_SIZE), "")
    first_blocks = itertools.islice(blocks, _MAX_BLANK_CHARACTERS // BLOCK_SIZE)
    return any(block.strip() for block in first_blocks)
