"""What earlier stays of a patient say of a later one."""

from __future__ import annotations

from pathlib import Path

import duckdb

from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Codes are given when the patient has gone, and no table says when. A hospital takes some days.
_CODED_AFTER = "INTERVAL 7 DAY"


def define_code_paths(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros that turn names and codes into paths."""
    connection.execute(render_sql(_SQL / "code_paths.sql"))


def make_history(extraction: Extraction, has_procedures: bool) -> list[str]:
    """Queries of the rows of the codes table that come from earlier stays, of ``stays`` and
    ``diagnoses``.

    The rows of admissions and diagnoses are counted where they are read first, under samples and
    labels; those of the coded procedures here.
    """
    connection = extraction.connection
    connection.execute(render_sql(_SQL / "earlier_stays.sql"))
    connection.execute(render_sql(_SQL / "history.sql", coded_after=_CODED_AFTER))
    tables = {"history_of_stays": "admissions", "history_of_diagnoses": "diagnoses"}
    if has_procedures:
        extraction.load("procedures_icd")
        connection.execute(render_sql(_SQL / "earlier_procedures.sql", coded_after=_CODED_AFTER))
        extraction.count("codes", "procedures_icd", "procedures_icd_rows")
        tables["history_of_procedures"] = "procedures_icd"
    return [
        f"SELECT *, {quote_literal(extraction.tables[table].name)} AS source_file FROM {rows}"
        for rows, table in tables.items()
    ]
