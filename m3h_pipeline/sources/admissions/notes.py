"""Notes, as MIMIC-IV has them."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Their charttime is a bare date.
NOT_BEFORE_DISCHARGE = "greatest(available_time, discharge_time) AS available_time"


def make_notes(extraction: Extraction, table: str) -> None:
    """The view ``notes_of_<table>`` of a raw table: its typed columns but kind and reason."""
    extraction.connection.execute(render_sql(_SQL / "notes.sql", table=table))
