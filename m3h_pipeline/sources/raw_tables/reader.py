"""Loading tables into DuckDB, whatever is wrong with their rows."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.encoding import refuse_another_encoding
from m3h_pipeline.sources.raw_tables.csv_text import LONGEST_ROW, UNDECODABLE, open_text
from m3h_pipeline.sources.raw_tables.repair import MARK, repair_csv
from m3h_pipeline.sources.raw_tables.scan import scan_while_loading
from m3h_pipeline.sources.raw_tables.table import RawTable
from m3h_pipeline.state.database import quote_identifier, quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent


@dataclass(frozen=True)
class _Wanted:
    """What is taken of a file: the table ``name`` of the columns ``selected`` of the rows
    ``where``; ``is_counted``: a row for each group of equal ones, with their number; ``joined``: a
    join that these columns need.
    """

    name: str
    selected: str
    where: str = "TRUE"
    is_counted: bool = False
    joined: str = ""


class RawReader:
    """Loads raw tables into a DuckDB connection; ``checksums`` holds the SHA-256 of each file by
    its name.

    Several may be loaded at once, in threads: each has a cursor of its own. So the tables are no
    temporary ones, which other cursors don't see.

    A file is scanned besides. For one, DuckDB takes a gzip file that was cut off at a line's end
    for whole. For another, bytes that are no UTF-8, in a file of which only some columns are read,
    can break its connection for good (1.5): they never reach it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        self._connection = connection
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.scratch = scratch
        self.checksums: dict[str, str] = {}

    def load(
        self,
        table: RawTable,
        name: str,
        columns: Sequence[str],
        where: str = "TRUE",
        derived: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> int:
        """Create the table ``name`` of the rows where the condition holds; return the number of
        rows in the file.

        Its columns are the given ones as text (not to ``keep`` them: only what is derived),
        ``derived`` ones (name -> SQL over the file's columns, which are text), ``source_row`` (from
        1) and ``broken`` (what is wrong with the row as a whole, else null). A row that can't be
        split into fields has only nulls and is kept whatever the condition. Raises `InputError`
        where the file is damaged.
        """
        expressions = [quote_identifier(column) for column in columns] if keep else []
        expressions += _name_expressions(derived or {})
        return self._load(table, columns, _Wanted(name, ", ".join(expressions), where))

    def count(
        self,
        table: RawTable,
        name: str,
        columns: Sequence[str],
        groups: Mapping[str, str],
        joined: str = "",
    ) -> int:
        """Create the table ``name`` of the file's rows in groups; return the number of rows in the
        file.

        Its columns are ``groups`` (name -> SQL over the file's columns and those of the SQL
        ``joined``, which must keep each row once), ``rows`` (how many a group has) and ``broken``
        (as `load` has it). The file's rows are not kept: what it takes grows with the groups.
        ``columns``: those of the file that the groups read. Raises `InputError` as `load` does.
        """
        selected = ", ".join(_name_expressions(groups))
        wanted = _Wanted(name, selected, is_counted=True, joined=joined)
        return self._load(table, columns, wanted)

    def _load(self, table: RawTable, columns: Sequence[str], wanted: _Wanted) -> int:
        n_rows = None
        is_damaged = False
        end_row = _make_end_row(len(table.columns))
        with scan_while_loading(table, end_row, self._stopped) as (file, scan):
            try:
                if table.is_parquet:
                    n_rows = self._load_parquet(table, wanted)
                else:
                    n_rows = self._load_csv(file, table.columns, end_row, wanted)
            except (duckdb.OutOfMemoryException, duckdb.InterruptException):
                raise
            except duckdb.Error as error:
                # DuckDB's messages quote the row, so they go no further.
                is_damaged = table.is_parquet or not isinstance(error, duckdb.InvalidInputException)
        self.checksums[table.name], is_text = scan.result()
        if is_damaged and is_text:
            raise InputError(f"{table.file} can't be read: it is damaged; copy it again")
        if not is_text:
            # What was looked at when it was opened is its beginning.
            refuse_another_encoding(table.file, limit=None)
        if n_rows is None or not is_text:
            return self._load_repaired(table, columns, wanted)
        return n_rows

    def _load_parquet(self, table: RawTable, wanted: _Wanted) -> int:
        query = render_sql(
            _SQL / "parquet_rows.sql", wanted=wanted, columns=table.columns, file=table.file
        )
        self._execute(query)
        metadata = f"parquet_file_metadata({quote_literal(table.file)})"
        return self._fetch_number(f"SELECT num_rows FROM {metadata}")

    def _load_repaired(self, table: RawTable, columns: Sequence[str], wanted: _Wanted) -> int:
        copy = self.scratch / f"{wanted.name}.repaired.csv"
        end_row = _make_end_row(len(table.columns) + 1)
        with open_text(table.file) as lines, copy.open("w", encoding="utf-8", newline="") as to:
            repair_csv(self._stop_when_interrupted(lines), len(table.columns), to)
            to.write(f"{','.join(end_row)}\r\n")
        problems = [
            f"CASE WHEN contains({quote_identifier(column)}, '{UNDECODABLE}') THEN "
            f"{quote_literal(f'{column}: not UTF-8')} END"
            for column in columns
        ]
        broken = f"nullif(concat_ws('; ', {MARK}, {', '.join(problems)}), '')"
        header = (*table.columns, MARK)
        n_rows = self._load_csv(copy, header, end_row, wanted, broken)
        assert n_rows is not None, "the repaired copy has no end"
        copy.unlink()
        return n_rows

    def _load_csv(
        self,
        file: Path | str,
        header: Sequence[str],
        end_row: Sequence[str],
        wanted: _Wanted,
        broken: str = "NULL::VARCHAR",
    ) -> int | None:
        first_column = quote_identifier(header[0])
        query = render_sql(
            _SQL / "csv_rows.sql",
            wanted=wanted,
            columns=header,
            file=file,
            broken=broken,
            is_end=f"{first_column} IS NOT DISTINCT FROM {quote_literal(end_row[0])}",
            longest_row=LONGEST_ROW,
        )
        self._execute(query)
        name = wanted.name
        n_rows = self._fetch_number(
            f"SELECT coalesce(max(source_row), 0) - 1 FROM {name} WHERE is_end"
        )
        if n_rows < 0:
            # An open quote swallowed it.
            return None
        n_beyond = self._fetch_number(f"SELECT count(*) FROM {name} WHERE source_row > {n_rows}")
        assert n_beyond == 1, "rows came out of order"
        self._execute(f"DELETE FROM {name} WHERE is_end")
        self._execute(f"ALTER TABLE {name} DROP is_end")
        return n_rows

    def interrupt(self) -> None:
        """End what is being loaded, in whatever threads, with an error; nothing is loaded any
        more.
        """
        self._stopped.set()
        with self._lock:
            for cursor in self._cursors:
                cursor.interrupt()

    def _stop_when_interrupted(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if self._stopped.is_set():
                raise duckdb.InterruptException("interrupted")
            yield line

    def _execute(self, query: str) -> duckdb.DuckDBPyConnection:
        cursor = self._connection.cursor()
        with self._lock:
            self._cursors.add(cursor)
        if self._stopped.is_set():
            raise duckdb.InterruptException("interrupted")
        return cursor.execute(query)

    def _fetch_number(self, query: str) -> int:
        row = self._execute(query).fetchone()
        assert row is not None
        return int(row[0])


def _name_expressions(expressions: Mapping[str, str]) -> list[str]:
    return [f"{sql} AS {quote_identifier(column)}" for column, sql in expressions.items()]


def _make_end_row(width: int) -> list[str]:
    """A row that no file has, to be its last."""
    return [secrets.token_hex(16), *[""] * (width - 1)]
