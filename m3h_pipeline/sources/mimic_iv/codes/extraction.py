"""From the tables that hold codes to the canonical table ``codes``."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.admissions.history import define_code_paths, make_history
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.base import CODES
from m3h_pipeline.sources.extraction import CODES_ORDER, Extraction
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Tables of which each row is one code, and those of a stay that come to more.
_RECORD_TABLES = ("prescriptions", "emar", "services", "transfers")
_CULTURES = "microbiologyevents"


def write_codes(records: Records, to: Path) -> int:
    """Write the codes of every stay, once ``stays`` and ``diagnoses`` are there; return how
    many.
    """
    extraction = records.extraction
    define_code_paths(extraction.connection)
    parts = make_history(extraction, "procedures_icd" in extraction.tables)
    for table in _RECORD_TABLES:
        if table in extraction.tables:
            _place(records, table)
            parts.append(_select(extraction, table, f"placed_{table} WHERE reason IS NULL"))
    if _CULTURES in extraction.tables:
        _place(records, _CULTURES)
        extraction.connection.execute(render_sql(_SQL / "cultures.sql"))
        parts.append(_select(extraction, _CULTURES, "cultures"))
    if "omr" in extraction.tables:
        extraction.load("omr")
        extraction.connection.execute(render_sql(_SQL / "omr.sql"))
        extraction.count("codes", "omr", "omr_rows")
        parts.append(_select(extraction, "omr", "measured_before"))
    return extraction.write_parts(to / "codes.parquet", CODES, parts, CODES_ORDER)


def _place(records: Records, table: str) -> None:
    records.extraction.load(table)
    records.extraction.connection.execute(render_sql(_SQL / f"{table}.sql"))
    records.place("codes", table)


def _select(extraction: Extraction, table: str, rows: str) -> str:
    file = quote_literal(extraction.tables[table].name)
    return f"SELECT *, {file} AS source_file FROM {rows}"
