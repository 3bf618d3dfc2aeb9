"""Which stay each record belongs to, or why it belongs to none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent


@dataclass
class Records:
    """Records of an extraction's ``stays``.

    ``placed_by_time``: table -> rows kept that had no hadm_id.
    """

    extraction: Extraction
    placed_by_time: dict[str, int] = field(default_factory=dict)

    def place(self, canonical: str, table: str) -> None:
        """Make the view ``placed_<table>`` of the rows of the view ``typed_<table>``, which go to a
        canonical table: with their stay, or the reason why they are out of scope.

        ``rows_of_<table>`` has how many each stay has, and the lineage their sum.
        """
        extraction = self.extraction
        extraction.connection.execute(render_sql(_SQL / "place.sql", table=table))
        extraction.connection.execute(
            f"""CREATE TEMP TABLE rows_of_{table} AS SELECT stay_id, reason, by_time,
            {extraction.file_of_row(table)} AS file, count(*) AS rows
            FROM placed_{table} GROUP BY ALL"""
        )
        outcomes = extraction.connection.execute(
            render_sql(_SQL / "count_placed.sql", table=table)
        ).fetchall()
        extraction.lineage += [
            (canonical, file, reason, n_rows) for file, reason, n_rows, _ in outcomes
        ]
        self.placed_by_time[table] = sum(
            n_by_time or 0 for _, reason, _, n_by_time in outcomes if reason is None
        )
