"""Codes of the emergency department (MIMIC-IV-ED), whose records name a visit alone."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.admissions.codes import place_codes, select_from
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.mimic_iv.codes.single_codes import SingleCodes, place_single_codes
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

_VISITS = "edstays"
_NO_VISIT = "a visit that edstays does not have"
_ARRIVAL = SingleCodes(
    kind="ed_arrival",
    code="as_path(arrival_transport)",
    taken="intime",
    out_of_scope=(("as_path(arrival_transport) IS NULL", "no transport is named"),),
)
_OUT_OF_SCOPE = (("has_no_visit", _NO_VISIT), ("as_step(name) IS NULL", "no drug is named"))
_SINGLE = {
    # Below its class, where that is named.
    "medrecon": SingleCodes(
        kind="drug_at_home",
        code="concat_ws('/', as_step(etcdescription), as_step(name))",
        taken="charttime",
        out_of_scope=_OUT_OF_SCOPE,
    ),
    "pyxis": SingleCodes(
        kind="ed_drug", code="as_path(name)", taken="charttime", out_of_scope=_OUT_OF_SCOPE
    ),
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
    if _VISITS not in extraction.tables:
        return []
    visits = extraction.load(_VISITS)
    extraction.connection.execute(render_sql(_SQL / "ed_visits.sql"))
    parts = [place_single_codes(records, _VISITS, _ARRIVAL, visits)]
    for table in (*_SINGLE, *_NUMBERS):
        if table not in extraction.tables:
            continue
        extraction.load(table)
        extraction.connection.execute(render_sql(_SQL / "ed_records.sql", table=table))
        if table in _SINGLE:
            rows = f"visited_{table}"
            parts.append(place_single_codes(records, table, _SINGLE[table], rows))
        else:
            parts += _place_numbers(records, table)
    return parts


def _place_numbers(records: Records, table: str) -> list[str]:
    extraction = records.extraction
    kind, numbers = _NUMBERS[table]
    statement = render_sql(_SQL / f"{table}.sql", numbers=numbers, no_visit=_NO_VISIT)
    extraction.connection.execute(statement)
    place_codes(records, table)
    extraction.connection.execute(
        render_sql(_SQL / "ed_numbers.sql", table=table, kind=kind, numbers=numbers)
    )
    parts = [select_from(extraction, table, f"numbers_of_{table}")]
    if table == "triage":
        extraction.connection.execute(render_sql(_SQL / "complaints.sql"))
        parts.append(select_from(extraction, table, "complaints"))
    return parts
