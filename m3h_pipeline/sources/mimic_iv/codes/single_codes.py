"""Tables of which each row is one code at one time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3h_pipeline.sources.admissions.codes import place_codes
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent


@dataclass(frozen=True)
class SingleCodes:
    """How the rows of a table become codes.

    ``taken``, ``stored``: the columns with the time of a row and, where there is one, with the time
    when it was known; ``code``: SQL; ``out_of_scope``: SQL of a condition, and the reason why such
    a row is out of scope.
    """

    kind: str
    code: str
    taken: str
    stored: str = ""
    out_of_scope: tuple[tuple[str, str], ...] = ()

    @property
    def times(self) -> list[str]:
        """The columns that must be dates."""
        return [column for column in (self.taken, self.stored) if column]


def place_single_codes(records: Records, table: str, how: SingleCodes, rows: str) -> str:
    """Give the rows of an SQL table their stay, counted under ``table``; the query of those that
    are kept.
    """
    statement = render_sql(_SQL / "single_codes.sql", table=table, how=how, rows=rows)
    records.extraction.connection.execute(statement)
    return place_codes(records, table)
