"""Events, codes, notes and images: records of a stay, each with its time and when it was known."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import SIMILAR, InputError, suggest_similar
from m3h_pipeline.sources.base import CODES, EVENTS, IMAGES, NOTES, SIGNALS
from m3h_pipeline.sources.tables.cohort_file import FILE
from m3h_pipeline.sources.tables.reading import NO_VALUE, TablesExtraction
from m3h_pipeline.sources.tasks_file import load_signals
from m3h_pipeline.sources.units import unit_rules

# In a file of the snapshot's only codes that a person can read are named.
_READABLE = "NOT regexp_matches(code, '[\\x00-\\x1f\\x7f\ufffd]|^.{129}')"
# What says where a record comes from, not what it is.
_NO_CONTENT = ("stay_id", "source_file", "source_row", "parse_errors")


def write_events(extraction: TablesExtraction, to: Path) -> int:
    """Write ``events.parquet`` and ``signals.json``; return the events' rows."""
    columns = extraction.read("events")
    signals = [*load_signals(), *extraction.cohort.signals]
    extraction.register("unit_rules", unit_rules(signals), ["code", "spelling", "factor"])
    units = [(signal.code, signal.unit) for signal in signals]
    extraction.register("signals", units, ["code", "unit"])
    _write_signals(extraction, to)
    if not columns:
        return _write_records(extraction, to, "events", EVENTS, None)
    query = extraction.render_table("events", no_value=NO_VALUE)
    return _write_records(extraction, to, "events", EVENTS, query)


def write_codes(extraction: TablesExtraction, to: Path) -> int:
    """Write ``codes.parquet``; return its rows."""
    if not extraction.read("codes"):
        return _write_records(extraction, to, "codes", CODES, None)
    return _write_records(extraction, to, "codes", CODES, extraction.render_table("codes"))


def write_notes(extraction: TablesExtraction, to: Path) -> int:
    """Write ``notes.parquet``; return its rows."""
    if not extraction.read("notes"):
        return _write_records(extraction, to, "notes", NOTES, None)
    sources = [
        (kind.lower(), task)
        for task, kinds in extraction.cohort.derived_from.items()
        for kind in kinds
    ]
    _check_kinds(extraction, {kind for kind, _ in sources})
    extraction.register("derived", sources, ["kind", "task"])
    return _write_records(extraction, to, "notes", NOTES, extraction.render_table("notes"))


def write_images(extraction: TablesExtraction, to: Path) -> int:
    """Write ``images.parquet``; return its rows."""
    if not extraction.read("images"):
        return _write_records(extraction, to, "images", IMAGES, None)
    query = extraction.render_table("images", folder=extraction.folder)
    return _write_records(extraction, to, "images", IMAGES, query)


def _write_records(
    extraction: TablesExtraction, to: Path, table: str, schema: Mapping[str, str], query: str | None
) -> int:
    """Write a table of records, each with its stay, or count the reason why it is out of scope.

    ``query`` makes the SQL table ``placed_<table>``; None: there is no such file.
    """
    # What was known first comes first: of rows with the same key it is kept, whatever comes later
    # or anew.
    content = [name for name in schema if name not in _NO_CONTENT]
    order = ", ".join(["stay_id", "greatest(available_time, time)", *content])
    file = to / f"{table}.parquet"
    if query is None:
        return extraction.write_parts(file, schema, [], order)
    extraction.connection.execute(query)
    extraction.count(table, table, f"placed_{table}")
    rows = extraction.select_placed(table)
    return extraction.write_parts(file, schema, [rows], f"{order}, source_row")


def _write_signals(extraction: TablesExtraction, to: Path) -> None:
    """``signals.json``: the hospital's own codes; those that cohort.yaml does not name have no unit
    or range.
    """
    own_signals: list[dict[str, Any]] = [
        {
            "code": signal.code,
            "unit": signal.unit,
            "low": signal.low if math.isfinite(signal.low) else None,
            "high": signal.high if math.isfinite(signal.high) else None,
        }
        for signal in extraction.cohort.signals
    ]
    if "events" in extraction.tables:
        codes = extraction.connection.execute(
            "SELECT DISTINCT as_text(code) AS code FROM raw_events WHERE code IS NOT NULL "
            f"AND code NOT IN (SELECT code FROM signals) AND {_READABLE} ORDER BY code"
        ).fetchall()
        own_signals += [
            {"code": code, "unit": None, "low": None, "high": None} for (code,) in codes
        ]
    (to / SIGNALS).write_text(json.dumps(own_signals, indent=1) + "\n")


def _check_kinds(extraction: TablesExtraction, kinds: Collection[str]) -> None:
    """A misspelt kind would leave the reports in that give a label away."""
    rows = extraction.connection.execute(
        "SELECT DISTINCT lower(as_text(kind)) FROM raw_notes"
    ).fetchall()
    kinds_in_notes = [kind for (kind,) in rows]
    if missing := sorted(set(kinds) - set(kinds_in_notes)):
        hint = suggest_similar(missing[0], [kind for kind in kinds_in_notes if kind], SIMILAR)
        raise InputError(
            f"{extraction.folder / FILE}: derived_from: no note is of the kind {missing[0]!r}{hint}"
        )
