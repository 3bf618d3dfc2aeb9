"""Codes of the stays: what earlier ones of a patient say, and records of codes."""

from __future__ import annotations

from pathlib import Path

import duckdb

from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Codes are given when the patient has gone, and no table says when. A hospital takes some days.
_CODED_AFTER = "INTERVAL 7 DAY"


def place_codes(records: Records, table: str) -> str:
    """Give the rows of the view ``typed_<table>`` their stay; the query of those that are kept."""
    records.place("codes", table)
    return select_from(records.extraction, table, f"placed_{table} WHERE reason IS NULL")


def make_measured_before(extraction: Extraction, table: str) -> str:
    """The query of measurements between stays, of ``raw_omr``; ``table`` is what they are counted
    under.
    """
    extraction.connection.execute(render_sql(_SQL / "measured_before.sql"))
    extraction.count("codes", table, "omr_rows")
    return select_from(extraction, table, "measured_before")


def select_from(extraction: Extraction, table: str, rows: str) -> str:
    """The query of some rows with the file that they come from."""
    file = quote_literal(extraction.tables[table].name)
    return f"SELECT *, {file} AS source_file FROM {rows}"


def define_code_paths(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros that turn names and codes into paths."""
    connection.execute(render_sql(_SQL / "code_paths.sql"))


def make_history(extraction: Extraction, has_procedures: bool) -> list[str]:
    """Queries of the rows of the codes table that come from earlier stays, of ``stays``,
    ``diagnoses`` and, where there are any, ``raw_procedures_icd``.

    The rows of admissions and diagnoses are counted where they are read first, under samples and
    labels; those of the coded procedures here.
    """
    connection = extraction.connection
    for statement in ("earlier_stays", "history_of_stays"):
        connection.execute(render_sql(_SQL / f"{statement}.sql"))
    _make_coded_history(connection, "diagnoses", "earlier_diagnosis")
    tables = {"history_of_stays": "admissions", "history_of_diagnoses": "diagnoses"}
    if has_procedures:
        connection.execute(render_sql(_SQL / "coded_procedures.sql"))
        _make_coded_history(connection, "procedures", "earlier_procedure")
        connection.execute(render_sql(_SQL / "procedures_icd_rows.sql"))
        extraction.count("codes", "procedures_icd", "procedures_icd_rows")
        tables["history_of_procedures"] = "procedures_icd"
    return [select_from(extraction, table, rows) for rows, table in tables.items()]


def _make_coded_history(connection: duckdb.DuckDBPyConnection, coded: str, kind: str) -> None:
    """``history_of_<coded>`` of an SQL table with stay_id, code, version and parse_errors."""
    statement = _SQL / "coded_history.sql"
    connection.execute(render_sql(statement, coded=coded, kind=kind, coded_after=_CODED_AFTER))
