"""From the tables that hold codes to the canonical table ``codes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Tables of which each row is one code, and those whose rows are several, made by a statement.
_RECORD_TABLES = ("prescriptions", "emar", "services", "transfers")
_SEVERAL = {"microbiologyevents": "cultures"}
# The same of the emergency department, whose records name a visit alone.
_ED_VISITS = "edstays"
_ED_RECORD_TABLES = (_ED_VISITS, "medrecon", "pyxis")
_ED_SEVERAL = {"triage": "triage_codes", "vitalsign": "vitalsign_codes"}


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
    parts += _place_tables(records, _RECORD_TABLES, _SEVERAL)
    if _ED_VISITS in tables:
        extraction.load(_ED_VISITS)
        extraction.connection.execute(render_sql(_SQL / "ed_visits.sql"))
        parts += _place_tables(records, _ED_RECORD_TABLES, _ED_SEVERAL)
    if "omr" in tables:
        extraction.load("omr")
        parts.append(make_measured_before(extraction, "omr"))
    return extraction.write_parts(to / "codes.parquet", CODES, parts, CODES_ORDER)


def _place_tables(
    records: Records, one_code: Sequence[str], several: Mapping[str, str]
) -> list[str]:
    """Load tables and give their rows their stay; the queries of their codes.

    ``one_code``: tables of which each row is one; ``several``: others, and the statement that makes
    codes of their placed rows.
    """
    extraction = records.extraction
    parts = []
    for table in (*one_code, *several):
        if table not in extraction.tables:
            continue
        extraction.load(table)
        extraction.connection.execute(render_sql(_SQL / f"{table}.sql"))
        rows = place_codes(records, table)
        if table in several:
            extraction.connection.execute(render_sql(_SQL / f"{several[table]}.sql"))
            rows = select_from(extraction, table, several[table])
        parts.append(rows)
    return parts
