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


def select_measured(number: str = "valuenum", value: str = "value") -> dict[str, str]:
    """What is kept of a raw measurement, which has MIMIC-IV's columns as text: column -> SQL.

    ``number``, ``value``: SQL of the text that is a number, and of the one that may be one.
    """
    return {
        "hadm_id": "as_id(hadm_id)",
        "subject_id": "as_id(subject_id)",
        "item": "as_text(itemid)",
        "taken": "as_time(charttime)",
        "stored": "as_time(storetime)",
        "number": f"coalesce(as_number({number}), as_number({value}))",
        "valueuom": "valueuom",
        "nothing": f"has_no_value({number}, {value})",
        "errors": f"measurement_errors(charttime, storetime, {number}, {value})",
    }


MEASURED = select_measured()


def define_measured(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros that `MEASURED` uses."""
    connection.execute(render_sql(_SQL / "measured.sql"))


def register_signals(
    extraction: Extraction,
    items: Iterable[tuple[str, Signal]],
    more_rules: Iterable[tuple[str, str, float]] = (),
) -> None:
    """``signals`` and ``unit_rules``: which item is which signal, and in which units;
    ``more_rules``: units that are understood beside those of `unit_rules`.
    """
    pairs = list(items)
    rows = [(item, signal.code, signal.kind, signal.unit) for item, signal in pairs]
    extraction.register("signals", rows, ["item", "code", "kind", "unit"])
    rules = [*unit_rules(signal for _, signal in pairs), *more_rules]
    factors = {(code, spelling): factor for code, spelling, factor in rules}
    rows_of_rules = [(code, spelling, factor) for (code, spelling), factor in factors.items()]
    extraction.register("unit_rules", rows_of_rules, ["code", "spelling", "factor"])


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
