"""From the tables that hold codes to the canonical table ``codes``."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.admissions.codes import (
    define_code_paths,
    make_history,
    make_measured_before,
    place_codes,
    select_from,
)
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.base import CODES
from m3h_pipeline.sources.extraction import CODES_ORDER
from m3h_pipeline.sources.mimic_iv.codes.emergency import make_emergency_codes
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Tables of which each row is one code, and the one whose rows are several.
_RECORD_TABLES = ("prescriptions", "emar", "services", "transfers")
_CULTURES = "microbiologyevents"


def write_codes(records: Records, to: Path) -> int:
    """Write the codes of every stay, once ``stays`` and ``diagnoses`` are there; return how
    many.
    """
    extraction = records.extraction
    tables = extraction.tables
    define_code_paths(extraction.connection)
    if "procedures_icd" in tables:
        extraction.load("procedures_icd")
    parts = make_history(extraction, "procedures_icd" in tables)
    for table in _RECORD_TABLES:
        if table in tables:
            parts.append(_place_table(records, table))
    if _CULTURES in tables:
        _place_table(records, _CULTURES)
        extraction.connection.execute(render_sql(_SQL / "cultures.sql"))
        parts.append(select_from(extraction, _CULTURES, "cultures"))
    parts += make_emergency_codes(records)
    if "omr" in tables:
        extraction.load("omr")
        parts.append(make_measured_before(extraction, "omr"))
    return extraction.write_parts(to / "codes.parquet", CODES, parts, CODES_ORDER)


def _place_table(records: Records, table: str) -> str:
    """Load a table and give its rows their stay; the query of those that are kept."""
    extraction = records.extraction
    extraction.load(table)
    extraction.connection.execute(render_sql(_SQL / f"{table}.sql"))
    return place_codes(records, table)
