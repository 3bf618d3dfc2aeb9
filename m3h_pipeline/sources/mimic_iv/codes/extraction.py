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
from m3h_pipeline.sources.mimic_iv.codes.single_codes import SingleCodes, place_single_codes
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# An order has no time of its own; it was there when it was to begin. A discharge names no unit.
_SINGLE = {
    "prescriptions": SingleCodes(
        kind="drug_ordered",
        code="as_path(drug)",
        taken="starttime",
        out_of_scope=(
            ("as_text(drug_type) = 'BASE'", "what a drug is dissolved in"),
            ("as_text(drug) IS NULL", "no drug is named"),
            ("as_text(starttime) IS NULL", "no time when it begins"),
        ),
    ),
    "emar": SingleCodes(
        kind="drug_given",
        code="as_path(medication)",
        taken="charttime",
        stored="storetime",
        out_of_scope=(
            ("as_text(medication) IS NULL", "no drug is named"),
            ("NOT is_given(event_txt)", "not given"),
        ),
    ),
    "services": SingleCodes(
        kind="service",
        code="as_path(curr_service)",
        taken="transfertime",
        out_of_scope=(("as_text(curr_service) IS NULL", "no service is named"),),
    ),
    "transfers": SingleCodes(
        kind="unit",
        code="as_path(careunit)",
        taken="intime",
        out_of_scope=(
            ("as_text(careunit) IS NULL OR as_text(eventtype) = 'discharge'", "no unit is named"),
        ),
    ),
}
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
    for table, how in _SINGLE.items():
        if table in tables:
            rows = extraction.load(table)
            parts.append(place_single_codes(records, table, how, rows))
    if _CULTURES in tables:
        extraction.load(_CULTURES)
        extraction.connection.execute(render_sql(_SQL / f"{_CULTURES}.sql"))
        place_codes(records, _CULTURES)
        extraction.connection.execute(render_sql(_SQL / "cultures.sql"))
        parts.append(select_from(extraction, _CULTURES, "cultures"))
    parts += make_emergency_codes(records)
    if "omr" in tables:
        extraction.load("omr")
        parts.append(make_measured_before(extraction, "omr"))
    return extraction.write_parts(to / "codes.parquet", CODES, parts, CODES_ORDER)
