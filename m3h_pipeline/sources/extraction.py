"""What the extractions of all sources share: loading raw tables, writing a canonical table, and
counting what became of every row read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from m3h_pipeline.sources.base import Settings
from m3h_pipeline.sources.raw_tables import RawReader, RawTable
from m3h_pipeline.sources.splits import split_subjects
from m3h_pipeline.state.database import (
    quote_identifier,
    quote_literal,
    use_one_thread,
    write_parquet,
)
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

EVENTS_ORDER = "stay_id, time, code, value, available_time, unit, source_file, source_row"
CODES_ORDER = "stay_id, time, kind, code, value, available_time, source_file, source_row"
# What was known first comes first: of notes with the same key it is kept, whatever comes later.
NOTES_ORDER = (
    "stay_id, greatest(available_time, time), time, note_id, kind, text, source_file, source_row"
)

# Parquet has all values of an ENUM in every row group, also those that no row has. So only few are
# written as such, and none that comes from a patient.
_WITH_ALL_VALUES = ("code", "task", "source_file")


def define_time_macros(connection: duckdb.DuckDBPyConnection, timezone: str) -> None:
    """Make ``in_utc`` of a naive time of this time zone, and ``from_utc`` back to it."""
    zone = quote_literal(timezone)
    in_utc = from_utc = "x"
    if timezone != "UTC":
        in_utc = f"(x AT TIME ZONE {zone}) AT TIME ZONE 'UTC'"
        from_utc = f"(x AT TIME ZONE 'UTC') AT TIME ZONE {zone}"
    connection.execute(f"CREATE MACRO in_utc(x) AS {in_utc}")
    connection.execute(f"CREATE MACRO from_utc(x) AS {from_utc}")


@dataclass
class Extraction:
    """One pass over a source's files: what was loaded lies in DuckDB's temporary tables, what was
    counted in `lineage`.

    ``columns``: raw table -> the columns that are read of it. ``lineage``: (canonical table, raw
    table, reason why out of scope or None for kept, rows). ``expressions``: column of a canonical
    table -> SQL, where it is not written as it was loaded.
    """

    connection: duckdb.DuckDBPyConnection
    reader: RawReader
    tables: dict[str, RawTable]
    settings: Settings
    columns: Mapping[str, Sequence[str]]
    rows_read: dict[str, int] = field(default_factory=dict)
    lineage: list[tuple[str, str, str | None, int]] = field(default_factory=list)
    expressions: dict[str, str] = field(default_factory=dict)

    def define_macros(self, timezone: str) -> None:
        """Make the macros of macros.sql; naive times are of this time zone."""
        define_time_macros(self.connection, timezone)
        self.connection.execute(render_sql(_SQL / "macros.sql"))

    def load(
        self,
        table: str,
        where: str = "TRUE",
        derived: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> str:
        """Load a table's rows where the condition holds; return the name of its SQL table (see
        `RawReader.load`).

        What is loaded already stays as it is.
        """
        name = f"raw_{table}"
        if table in self.rows_read:
            return name
        self.rows_read[table] = self.reader.load(
            self.tables[table], name, self.columns[table], where, derived, keep
        )
        return name

    @contextmanager
    def loading(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        load_one: Callable[..., object] | None = None,
    ) -> Generator[None]:
        """Load several tables, each with its arguments of `load` (or of ``load_one``), beside what
        is done meanwhile: a text is read by one core. At the end they are there.
        """
        load_one = load_one or self.load
        texts = bool(tables) and not any(self.tables[table].is_parquet for table in tables)
        with (
            ThreadPoolExecutor() as pool,
            use_one_thread(self.connection) if texts else nullcontext(),
        ):
            loads: list[Future[object]] = []
            try:
                loads += (pool.submit(load_one, table, **how) for table, how in tables.items())
                yield
                for load in wait(loads, return_when=FIRST_EXCEPTION).done:
                    load.result()
            except BaseException as error:
                # Again and again: what is between two queries is not reached.
                while wait(loads, 0.1).not_done:
                    self.reader.interrupt()
                if not isinstance(error, duckdb.InterruptException):
                    raise
                # A load that fails ends the others and what is done meanwhile: it alone says why.
                causes = [why for load in loads if (why := load.exception())]
                raise min(
                    [*causes, error], key=lambda why: isinstance(why, duckdb.InterruptException)
                ) from None

    def register(self, name: str, rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> None:
        """A small table of ours as an SQL table; all text but ``factor``."""
        schema = {column: pl.Float64 if column == "factor" else pl.String for column in columns}
        self.register_frame(name, pl.DataFrame(rows, schema=schema, orient="row"))

    def register_frame(self, name: str, frame: pl.DataFrame) -> None:
        """A frame as an SQL table; through a file, since DuckDB imports pandas to be given an Arrow
        table or a list.
        """
        file = self.reader.scratch / f"{name}.parquet"
        frame.write_parquet(file)
        self.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS FROM read_parquet({quote_literal(file)})"
        )
        file.unlink()

    def register_splits(self, subjects: str) -> None:
        """The SQL table ``splits`` (subject_id, split) of the subjects in the SQL table, by the
        settings.

        The table has ``admit_time``: a temporal hold-out goes by the latest of each subject.
        """
        latest = f"SELECT subject_id, max(admit_time) AS latest FROM {subjects} GROUP BY subject_id"
        splits = split_subjects(
            self.connection.sql(latest).pl(), self.settings.split, self.settings.holdout_months
        )
        self.register_frame("splits", splits)

    def enumerate(self, table: str, **values: str) -> dict[str, str]:
        """Types for `write`: text columns of a table -> SQL of all values that they can have.

        Each is an ENUM in the order of the texts: rows are sorted by numbers, in the same order and
        half the time. A column without any value has none.
        """
        types = {}
        for column, all_values in values.items():
            self.connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE every_value AS SELECT DISTINCT value
                FROM ({all_values}) t(value) WHERE value IS NOT NULL ORDER BY value"""
            )
            if self.connection.execute("FROM every_value LIMIT 1").fetchone():
                types[column] = f"{table}_{column}"
                self.connection.execute(f"CREATE TYPE {types[column]} AS ENUM (FROM every_value)")
        return types

    def write(
        self,
        file: Path,
        schema: Mapping[str, str],
        rows: str,
        order: str,
        types: Mapping[str, str] | None = None,
    ) -> int:
        """Write a query's rows as a canonical table; columns of the schema that they lack are null.

        ``types``: what `enumerate` made for some of its columns.
        """
        names = ", ".join(quote_literal(table.name) for table in self.tables.values())
        enums = self.enumerate(file.stem, source_file=f"SELECT unnest([{names}]::VARCHAR[])")
        enums |= types or {}
        kinds = {column: enums.get(column, kind) for column, kind in schema.items()}
        absent = ", ".join(f'NULL::{kind} AS "{column}"' for column, kind in kinds.items())
        columns = ", ".join(
            f'({self.expressions.get(column, quote_identifier(column))})::{kind} AS "{column}"'
            for column, kind in kinds.items()
        )
        # The empty first part gives the columns that these rows lack, all of them where there are
        # no tables.
        query = f"""SELECT {columns}
            FROM (SELECT {absent} WHERE FALSE UNION ALL BY NAME {rows}) ORDER BY {order}"""
        texts = ", ".join(
            f'"{column}"::VARCHAR AS "{column}"'
            for column in enums
            if column not in _WITH_ALL_VALUES
        )
        if texts:
            query = f"SELECT * REPLACE ({texts}) FROM ({query})"
        return write_parquet(self.connection, query, file)

    def write_parts(
        self,
        file: Path,
        schema: Mapping[str, str],
        parts: Sequence[str],
        order: str,
        types: Mapping[str, str] | None = None,
    ) -> int:
        """Write the rows of several queries, in one order; none gives an empty table."""
        rows = " UNION ALL BY NAME ".join(f"({part})" for part in parts)
        return self.write(file, schema, rows or "SELECT NULL WHERE FALSE", order, types)

    def file_of_row(self, table: str) -> str:
        """SQL of the raw table that the lineage counts a row of ``table`` under: where a table is
        made of several files, each row says of which.
        """
        return self.expressions.get("source_file", quote_literal(table))

    def count(self, table: str, raw: str, rows: str) -> int:
        """Note the rows of a raw table by reason (null: kept)."""
        outcomes = self.connection.execute(
            f"""SELECT {self.file_of_row(raw)} AS file, reason, count(*) AS rows
            FROM {rows} GROUP BY ALL ORDER BY file, reason"""
        ).fetchall()
        self.lineage += [(table, file, reason, n_rows) for file, reason, n_rows in outcomes]
        return sum(n_rows for _, _, n_rows in outcomes)

    def close(self, to: Path) -> dict[str, Any]:
        """Write the lineage; returns the rows read of each file, as they were counted while
        reading.
        """
        self.write_lineage(to)
        # In the order of the tables: those that are loaded together end in any.
        read = [table for table in self.tables if table in self.rows_read]
        return {"rows read": {self.tables[table].name: self.rows_read[table] for table in read}}

    def write_lineage(self, to: Path) -> None:
        """Write ``lineage.parquet``; what was counted must be what was read, file by file."""
        accounted = dict.fromkeys(self.rows_read, 0)
        records = []
        for table, raw, reason, rows in self.lineage:
            accounted[raw] += rows
            if rows:
                name = self.tables[raw].name
                outcome = "out_of_scope" if reason else "kept"
                records.append((table, name, self.reader.checksums[name], outcome, reason, rows))
        assert accounted == self.rows_read, (
            f"lineage {accounted} does not account for the rows read {self.rows_read}"
        )
        schema = dict.fromkeys(("table", "file", "sha256", "outcome", "reason"), pl.String)
        frame = pl.DataFrame(records, schema={**schema, "rows": pl.Int64}, orient="row")
        frame.write_parquet(to / "lineage.parquet")
