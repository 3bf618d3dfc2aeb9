"""One pass over the files of a MIMIC-IV folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3h_pipeline.sources.admissions.events import (
    MEASURED,
    define_measured,
    register_signals,
    write_events,
)
from m3h_pipeline.sources.admissions.labels import write_labels
from m3h_pipeline.sources.admissions.notes import NOT_BEFORE_DISCHARGE, make_notes
from m3h_pipeline.sources.admissions.records import Records
from m3h_pipeline.sources.admissions.samples import (
    make_icu_times,
    make_samples,
    make_stays,
    write_samples,
)
from m3h_pipeline.sources.base import IMAGES, NOTES
from m3h_pipeline.sources.covered.choose import UNLISTED, Choice
from m3h_pipeline.sources.extraction import NOTES_ORDER, Extraction
from m3h_pipeline.sources.mimic_iv.codes import write_codes
from m3h_pipeline.sources.mimic_iv.covered import (
    COVERED_TABLES,
    choose_covered,
    count_unread,
    list_loads,
)
from m3h_pipeline.sources.tasks_file import (
    GIVEN_AWAY,
    Signal,
    TaskRule,
    gives_away,
    load_signals,
)
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Table -> the kind of signals that it holds.
_EVENT_TABLES = {"chartevents": "vital", "labevents": "lab", "procedureevents": "procedure"}
_NOTE_TABLES = ("radiology", "discharge")


@dataclass(kw_only=True)
class MimicExtraction(Extraction):
    """MIMIC-IV's tables; images lie below the first of ``image_folders``."""

    rules: Sequence[TaskRule]
    image_folders: Sequence[Path]
    signals: Sequence[Signal] = field(default_factory=load_signals)
    choice: Choice | None = None

    def __post_init__(self) -> None:
        self.records = Records(self)

    def extract(self, to: Path) -> dict[str, Any]:
        """Write the canonical tables; return counts."""
        self.define_macros(self.settings.timezone)
        define_measured(self.connection)
        is_listed = self.settings.signal_coverage is None
        with self.loading(self._event_tables() if is_listed else {}):
            samples = self._write_samples(to)
            self.load("diagnoses")
            labels = write_labels(self, to, self.rules)
        if not is_listed:
            self._load_covered(to)
        counts: dict[str, Any] = {
            "samples": samples,
            "events": self._write_events(to),
            "codes": write_codes(self.records, to),
            "notes": self._write_notes(to),
            "images": self._write_images(to),
            "labels": labels,
        }
        return {**counts, "placed by time": self.records.placed_by_time, **self.close(to)}

    def _write_samples(self, to: Path) -> int:
        self.load("patients")
        self.load("admissions")
        make_stays(self)
        if self.settings.prediction == "icu":
            self.load("icustays")
            make_icu_times(self)
        if self.settings.prediction == "image":
            self._make_images()
            self.connection.execute(render_sql(_SQL / "image_times.sql"))
        make_samples(self)
        self.register_splits("sample_rows")
        n_samples = write_samples(self, to)
        self.count("samples", "admissions", "stay_rows")
        self.count("samples", "patients", "people_rows")
        return n_samples

    def _load_covered(self, to: Path) -> None:
        """Load the event tables with the signals that training stays have, beside the listed ones;
        which these are needs the samples.
        """
        self.choice = choose_covered(self, self.signals)
        self.choice.save(to)
        listed = {table: self._items_of(kind) for table, kind in _EVENT_TABLES.items()}
        loads = self._event_tables() | list_loads(self.choice, listed, self.tables)
        with self.loading(loads):
            pass

    def _items_of(self, kind: str) -> list[str]:
        """The listed items of a kind of signals."""
        signals = [signal for signal in self.signals if signal.kind == kind]
        return [str(item) for signal in signals for item in signal.mimic_iv]

    def _event_tables(self) -> dict[str, dict[str, Any]]:
        """The event tables that are there, and the arguments that they are loaded with."""
        arguments: dict[str, dict[str, Any]] = {}
        for table, kind in _EVENT_TABLES.items():
            if table not in self.tables:
                continue
            items = [quote_literal(item) for item in self._items_of(kind)]
            arguments[table] = {"where": f"as_text(itemid) IN ({', '.join(items)})"}
            if kind != "procedure":
                arguments[table] |= {"derived": MEASURED, "keep": False}
        return arguments

    def _write_events(self, to: Path) -> int:
        choice = self.choice or Choice()
        pairs = [(str(item), signal) for signal in self.signals for item in signal.mimic_iv]
        register_signals(self, [*pairs, *choice.signals.items()], choice.unit_rules)
        kinds = {table: kind for table, kind in _EVENT_TABLES.items() if table in self.tables}
        if self.choice:
            measured = {table: "covered" for table in COVERED_TABLES if table in self.tables}
            kinds = measured | kinds
        n_events = write_events(self.records, to, kinds)
        if self.choice:
            count_unread(self, self.choice)
        for table in kinds:
            accounted = sum(rows for _, raw, _, rows in self.lineage if raw == table)
            unlisted = self.rows_read[table] - accounted
            self.lineage.append(("events", table, UNLISTED, unlisted))
        return n_events

    def _write_notes(self, to: Path) -> int:
        parts = []
        removed = gives_away(self.rules)
        for table in _NOTE_TABLES:
            if table not in self.tables:
                continue
            self.load(table)
            make_notes(self, table)
            reason = quote_literal(GIVEN_AWAY if table in removed else None)
            self.connection.execute(
                f"""CREATE TEMP VIEW typed_{table} AS SELECT *, {quote_literal(table)} AS kind,
                {reason}::VARCHAR AS reason FROM notes_of_{table}"""
            )
            self.records.place("notes", table)
            columns = f"* REPLACE ({NOT_BEFORE_DISCHARGE})" if table == "discharge" else "*"
            file = quote_literal(self.tables[table].name)
            parts.append(
                f"SELECT {columns}, {file} AS source_file FROM placed_{table} WHERE reason IS NULL"
            )
        return self.write_parts(to / "notes.parquet", NOTES, parts, NOTES_ORDER)

    def _make_images(self) -> None:
        """The view ``typed_cxr`` of the images, whatever stay they are of."""
        self.load("cxr")
        folder = self.tables["cxr"].file.parent / "files"
        folder = next(iter(self.image_folders), folder)
        self.connection.execute(
            f"CREATE OR REPLACE MACRO image_folder() AS {quote_literal(folder)}"
        )
        self.connection.execute(render_sql(_SQL / "images.sql"))

    def _write_images(self, to: Path) -> int:
        parts = []
        if "cxr" in self.tables:
            self._make_images()
            self.records.place("images", "cxr")
            file = quote_literal(self.tables["cxr"].name)
            parts.append(f"SELECT *, {file} AS source_file FROM placed_cxr WHERE reason IS NULL")
        order = "stay_id, time, image_id, view, path, source_row"
        return self.write_parts(to / "images.parquet", IMAGES, parts, order)
