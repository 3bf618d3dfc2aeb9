"""What is read of each file: its rows as text, of which times and numbers must be readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.tables.cohort_file import CohortFile
from m3h_pipeline.sources.tables.formats import ID_COLUMNS, TIME_COLUMNS
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

NO_VALUE = "no value"
_SQL = Path(__file__).parent
_HOW_TO_WRITE_TIMES = (
    "time: write 2026-01-31 14:05:00, year first, with an offset such as +01:00 where you have one"
)
_HOW_TO_WRITE_NUMBERS = "number: write 3.5, with a point"


@dataclass(kw_only=True)
class TablesExtraction(Extraction):
    """A hospital's own tables; ``folder``: where they and, by relative paths, the images lie."""

    cohort: CohortFile
    folder: Path

    def define_tables_macros(self) -> None:
        """Make the macros of all sources and those of this one."""
        self.define_macros(self.cohort.timezone)
        self.connection.execute(self.render("macros.sql"))

    def render(self, name: str, **values: Any) -> str:
        """The SQL of one of this package's files."""
        return render_sql(_SQL / name, **values)

    def render_table(self, table: str, **values: Any) -> str:
        """The SQL of a table's file, which is given the table's columns, times and ids."""
        columns = self.columns[table]
        return self.render(
            f"{table}.sql",
            table=table,
            columns=columns,
            times=_select_times(columns),
            ids=[column for column in columns if column in ID_COLUMNS],
            **values,
        )

    def read(self, table: str) -> Sequence[str]:
        """Load a table where there is one; its columns. A column of which nothing can be read is an
        `InputError`.
        """
        if table not in self.tables:
            return ()
        self.load(table)
        conversions = {time: f"{time}_utc" for time in _select_times(self.columns[table])}
        if table == "events":
            conversions["value"] = "as_quantity(value)"
        if conversions:
            self._check_readable(table, conversions)
        return self.columns[table]

    def select_placed(self, table: str) -> str:
        """SQL of the rows of a table that are kept, with the file that they come from."""
        file = quote_literal(self.tables[table].name)
        return f"SELECT *, {file} AS source_file FROM placed_{table} WHERE reason IS NULL"

    def fetch_one(self, query: str) -> tuple[int, ...]:
        """The numbers in the one row of a query's result."""
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row

    def _check_readable(self, table: str, conversions: dict[str, str]) -> None:
        """Refuse a column in which there is something and nothing can be read.

        ``conversions``: column -> SQL of what is read of it.
        """
        query = self.render(
            "readable.sql",
            table=table,
            conversions=conversions,
            times=_select_times(self.columns[table]),
        )
        counts = self.fetch_one(query)
        for i, column in enumerate(conversions):
            n_filled = counts[2 * i]
            n_readable = counts[2 * i + 1]
            if n_filled and not n_readable:
                is_time = column in TIME_COLUMNS
                advice = _HOW_TO_WRITE_TIMES if is_time else _HOW_TO_WRITE_NUMBERS
                raise InputError(
                    f"{self.tables[table].file}: none of the {n_filled:,} values of {column} can "
                    f"be read as a {advice}"
                )


def _select_times(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if column in TIME_COLUMNS]
