"""Codes of the emergency department (MIMIC-IV-ED), whose records name a visit alone."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.admissions.codes import place_codes, select_from
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

_VISITS = "edstays"
# Table -> its kind, and SQL of its code.
_DRUGS = {
    "medrecon": ("drug_at_home", "concat_ws('/', as_step(etcdescription), as_step(name))"),
    "pyxis": ("ed_drug", "as_path(name)"),
}
_SIGNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
# Table -> its kind, and its columns of numbers.
_NUMBERS = {
    "triage": ("ed_triage", (*_SIGNS, "pain", "acuity")),
    "vitalsign": ("ed_vital_sign", _SIGNS),
}


def make_emergency_codes(records: Records) -> list[str]:
    """Queries of the rows of the codes table that come from the emergency department; without its
    visits there are none.
    """
    extraction = records.extraction
    connection = extraction.connection
    if _VISITS not in extraction.tables:
        return []
    extraction.load(_VISITS)
    connection.execute(render_sql(_SQL / "ed_visits.sql"))
    connection.execute(render_sql(_SQL / f"{_VISITS}.sql"))
    parts = [place_codes(records, _VISITS)]
    for table in (*_DRUGS, *_NUMBERS):
        if table in extraction.tables:
            extraction.load(table)
            connection.execute(render_sql(_SQL / "ed_records.sql", table=table))
            parts += _place_drugs(records, table) if table in _DRUGS else _place(records, table)
    return parts


def _place_drugs(records: Records, table: str) -> list[str]:
    kind, code = _DRUGS[table]
    statement = render_sql(_SQL / "ed_drugs.sql", table=table, kind=kind, code=code)
    records.extraction.connection.execute(statement)
    return [place_codes(records, table)]


def _place(records: Records, table: str) -> list[str]:
    extraction = records.extraction
    kind, numbers = _NUMBERS[table]
    extraction.connection.execute(render_sql(_SQL / f"{table}.sql", numbers=numbers))
    place_codes(records, table)
    extraction.connection.execute(
        render_sql(_SQL / "ed_numbers.sql", table=table, kind=kind, numbers=numbers)
    )
    parts = [select_from(extraction, table, f"numbers_of_{table}")]
    if table == "triage":
        extraction.connection.execute(render_sql(_SQL / "complaints.sql"))
        parts.append(select_from(extraction, table, "complaints"))
    return parts
