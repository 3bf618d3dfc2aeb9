"""Measurements and procedures as events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.base import EVENTS
from m3h_pipeline.sources.extraction import EVENTS_ORDER, Extraction
from m3h_pipeline.sources.tasks_file import Signal
from m3h_pipeline.sources.units import unit_rules
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# What is kept of a raw measurement, which has MIMIC-IV's columns as text.
MEASURED = {
    "hadm_id": "as_id(hadm_id)",
    "subject_id": "as_id(subject_id)",
    "item": "as_text(itemid)",
    "taken": "as_time(charttime)",
    "stored": "as_time(storetime)",
    "number": "coalesce(as_number(valuenum), as_number(value))",
    "valueuom": "valueuom",
    "nothing": "has_no_value(valuenum, value)",
    "errors": "measurement_errors(charttime, storetime, valuenum, value)",
}


def define_measured(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros that `MEASURED` uses."""
    connection.execute(render_sql(_SQL / "measured.sql"))


def register_signals(extraction: Extraction, items: Iterable[tuple[str, Signal]]) -> None:
    """``signals`` and ``unit_rules``: which item is which signal, and in which units."""
    pairs = list(items)
    rows = [(item, signal.code, signal.kind, signal.unit) for item, signal in pairs]
    extraction.register("signals", rows, ["item", "code", "kind", "unit"])
    rules = unit_rules(signal for _, signal in pairs)
    extraction.register("unit_rules", rules, ["code", "spelling", "factor"])


def write_events(records: Records, to: Path, kinds: Mapping[str, str]) -> int:
    """Place and write the rows of raw tables; return how many.

    ``kinds``: table -> "procedure", or another kind for tables of measurements.
    """
    extraction = records.extraction
    connection = extraction.connection
    for table, kind in kinds.items():
        statement = "procedures" if kind == "procedure" else "measurements"
        connection.execute(render_sql(_SQL / f"{statement}.sql", table=table))
        records.place("events", table)
    none = "SELECT NULL::VARCHAR AS item, NULL::VARCHAR AS valueuom WHERE FALSE"
    seen = (f"SELECT item, valueuom FROM typed_{table}" for table in kinds)
    connection.execute(f"CREATE TEMP VIEW items_seen AS {' UNION '.join((none, *seen))}")
    connection.execute(render_sql(_SQL / "meanings.sql"))
    stays = " UNION ".join(f"SELECT stay_id FROM rows_of_{table}" for table in kinds)
    types = extraction.enumerate(
        "events",
        stay_id=stays or "SELECT NULL::VARCHAR",
        code="SELECT code FROM meanings",
        unit="SELECT unit FROM meanings",
    )
    for column in types.keys() & {"code", "unit"}:
        connection.execute(f"ALTER TABLE meanings ALTER {column} TYPE {types[column]}")
    parts = []
    for table in kinds:
        connection.execute(render_sql(_SQL / "events.sql", table=table))
        file = quote_literal(extraction.tables[table].name)
        parts.append(f"SELECT *, {file} AS source_file FROM events_of_{table} WHERE reason IS NULL")
    return extraction.write_parts(to / "events.parquet", EVENTS, parts, EVENTS_ORDER, types)
