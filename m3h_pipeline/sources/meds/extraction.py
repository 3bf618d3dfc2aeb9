"""One pass over the files of a MEDS dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.sources.admissions.codes import (
    define_code_paths,
    make_history,
    make_measured_before,
    place_codes,
)
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
from m3h_pipeline.sources.base import CODES, IMAGES, NOTES
from m3h_pipeline.sources.extraction import CODES_ORDER, NOTES_ORDER, Extraction
from m3h_pipeline.sources.meds.label_folder import LabelFiles
from m3h_pipeline.sources.meds.labels import (
    count_unread_labels,
    read_labels,
    write_given_labels,
)
from m3h_pipeline.sources.meds.roles import STAY_COLUMNS, CodeMapping, role_of
from m3h_pipeline.sources.meds.splits import register_own_splits
from m3h_pipeline.sources.raw_tables import RawTable
from m3h_pipeline.sources.tasks_file import GIVEN_AWAY, TaskRule, gives_away, load_signals
from m3h_pipeline.state.database import quote_identifier, quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# The tables that the rows become.
_TABLES = (
    *("patients", "admissions", "diagnoses", "icustays", "measurements", "procedures"),
    *("procedures_icd", "codes", "omr"),
)
_PERSON_ROLES = ("admission", "discharge", "birth", "death", "sex", "column")
_NO_ROLE = "a code without a role in the mapping"
_NOT_ICU = "the prediction time does not ask for intensive care"
_OWN_LABELS = "labels come from a folder of their own"


@dataclass(kw_only=True)
class MedsExtraction(Extraction):
    """MEDS rows as SQL tables with MIMIC-IV's columns; rows are counted by the file they are in.

    ``files``: name -> file of the data. ``label_files``: task -> its files, where labels come from
    a folder.
    """

    root: Path
    rules: Sequence[TaskRule]
    mapping: CodeMapping
    files: dict[str, Path]
    label_files: LabelFiles
    columns_present: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.records = Records(self)

    def prepare(self) -> None:
        """Give every code its role, and make the raw tables of patients, stays and diagnoses."""
        self._register_files()
        self._make_records()
        self._register_roles()
        self._make_rows("person_rows", *_PERSON_ROLES)
        self.connection.execute(render_sql(_SQL / "stays.sql"))
        self._make_rows("coded_rows", "diagnosis")
        self.connection.execute(render_sql(_SQL / "diagnoses.sql"))
        self._make_rows("icu_admissions", "icu")
        self.connection.execute(
            """CREATE TEMP TABLE raw_icustays AS SELECT hadm_id, time AS intime,
            NULL::VARCHAR AS broken, source_row FROM icu_admissions"""
        )
        for table in _TABLES:
            self.tables[table] = RawTable(self.root, table, ())

    def extract(self, to: Path) -> dict[str, Any]:
        """Write the canonical tables; return counts."""
        self.define_macros(self.settings.timezone)
        define_measured(self.connection)
        samples, splits_from = self._write_samples(to)
        labels = self._write_labels(to)
        counts = {
            "samples": samples,
            "events": self._write_events(to),
            "codes": self._write_codes(to),
            "notes": self._write_notes(to),
            "images": self.write_parts(
                to / "images.parquet", IMAGES, [], "stay_id, time, image_id"
            ),
            "labels": labels,
        }
        # A file of MEDS data is read into several tables; its sum is held against its rows here.
        self.write_lineage(to)
        rows_read = {name: rows for name, rows in self.rows_read.items() if name not in self.files}
        has_column = "available_time" in self.columns_present
        return {
            **counts,
            "placed by time": self.records.placed_by_time,
            "rows read": rows_read,
            "splits from": splits_from,
            "codes with a role": len(self.mapping.roles),
            "available_time": (
                "its own column" if has_column else "time: the data has no column available_time"
            ),
        }

    # Reading --------------------------------------------------------------------------------------

    def _register_files(self) -> None:
        """``files`` (path, name, number) of data and labels, and the rows and checksum of each."""
        files = dict(self.files)
        for of_task in self.label_files.values():
            files |= of_task
        for name, file in files.items():
            with file.open("rb") as stream:
                self.reader.checksums[name] = hashlib.file_digest(stream, "sha256").hexdigest()
            self.tables[name] = RawTable(file, name, ())
            query = f"SELECT num_rows FROM parquet_file_metadata({quote_literal(file)})"
            (n_rows,) = self.connection.execute(query).fetchall()[0]
            self.rows_read[name] = n_rows
        rows = [(str(file), name, str(i)) for i, (name, file) in enumerate(files.items())]
        self.register("files", rows, ["path", "name", "number"])
        names = ", ".join(quote_literal(name) for name in files)
        self.connection.execute(f"SET VARIABLE file_names = [{names}]")
        self.expressions = {
            "source_file": "file_name(source_row)",
            "source_row": "row_in_file(source_row)",
        }

    def _make_records(self) -> None:
        """The view ``records``: every row as texts; null where the data has no such column."""
        paths = ", ".join(quote_literal(file) for file in self.files.values())
        self.connection.execute(f"SET VARIABLE shards = [{paths}]")
        self.connection.execute(render_sql(_SQL / "data.sql"))
        described = self.connection.execute("DESCRIBE meds").fetchall()
        self.columns_present = {row[0] for row in described}
        columns = {
            "hadm_id": self.mapping.stay_id,
            "storetime": "available_time",
            "unit": "unit",
            "number": "numeric_value",
            "text": "text_value",
            "note_id": "note_id",
            "end_time": self.mapping.stay_end,
            **{column: column for column in STAY_COLUMNS},
        }
        texts = [f"{self._text(column)} AS {name}" for name, column in columns.items()]
        self.connection.execute(
            f"""CREATE TEMP VIEW records AS SELECT data.subject_id::VARCHAR AS subject_id,
            data.time::VARCHAR AS time, data.code, data.source_row, {", ".join(texts)}
            FROM meds data"""
        )

    def _text(self, column: str | None) -> str:
        """SQL: a column of the data as text."""
        if column is None or column not in self.columns_present:
            return "NULL::VARCHAR"
        return f"data.{quote_identifier(column)}::VARCHAR"

    def _register_roles(self) -> None:
        """``roles`` (code, role, argument, rest) of the data's codes that have one."""
        query = "SELECT DISTINCT code FROM meds WHERE code IS NOT NULL"
        codes = sorted(code for (code,) in self.connection.execute(query).fetchall())
        parents = self._read_parents()
        rows = []
        for code in codes:
            role = role_of(code, parents.get(code, ()), self.mapping.roles)
            if role:
                rows.append((code, *role))
        self.register("roles", rows, ["code", "role", "argument", "rest"])

    def _read_parents(self) -> dict[str, list[str]]:
        """Code -> the codes that it is one of, as the metadata say."""
        metadata = self.root / "metadata" / "codes.parquet"
        if not metadata.exists() or "parent_codes" not in pl.read_parquet_schema(metadata):
            return {}
        rows = pl.read_parquet(metadata, columns=["code", "parent_codes"]).drop_nulls()
        return dict(rows.iter_rows())

    def _make_rows(self, name: str, *roles: str) -> None:
        """An SQL table of the rows whose codes have one of these roles."""
        self.connection.execute(render_sql(_SQL / "rows.sql", rows=name), {"roles": list(roles)})

    def _count_left_out(self, table: str, rows: str, reason: str) -> None:
        """Note all rows of an SQL table or query as out of scope."""
        self.count(
            table, rows, f"(SELECT source_row, {quote_literal(reason)} AS reason FROM {rows})"
        )

    # Writing --------------------------------------------------------------------------------------

    def _write_samples(self, to: Path) -> tuple[int, str]:
        """How many samples there are, and where their splits come from."""
        if self.label_files:
            read_labels(self, self.rules, self.label_files)
        make_stays(self)
        if self.settings.prediction == "icu":
            make_icu_times(self)
        make_samples(self)
        self.register_splits("sample_rows")
        splits_from = register_own_splits(self, self.root)
        n_samples = write_samples(self, to)
        self.connection.execute(render_sql(_SQL / "person_reasons.sql"))
        self.count("samples", "persons", "(FROM person_reasons WHERE NOT makes_labels)")
        self.count("labels", "persons", "(FROM person_reasons WHERE makes_labels)")
        if self.settings.prediction != "icu":
            self._count_left_out("samples", "icu_admissions", _NOT_ICU)
        return n_samples, splits_from

    def _write_labels(self, to: Path) -> int:
        if self.label_files:
            self._count_left_out("labels", "coded_rows", _OWN_LABELS)
            count_unread_labels(self, self.rules, self.label_files)
            return write_given_labels(self, to)
        n_labels = write_labels(self, to, self.rules)
        self.count("labels", "diagnoses", "unplaced_diagnoses")
        return n_labels

    def _write_events(self, to: Path) -> int:
        register_signals(self, [(signal.code, signal) for signal in load_signals()])
        self._make_rows("signal_rows", "signal")
        self.connection.execute(render_sql(_SQL / "signals.sql"))
        measured = ", ".join(f"{sql} AS {name}" for name, sql in MEASURED.items())
        self.connection.execute(
            f"""CREATE TEMP TABLE raw_measurements AS SELECT {measured},
            NULL::VARCHAR AS broken, source_row FROM measurements"""
        )
        self.connection.execute("DROP VIEW measurements; DROP TABLE signal_rows")
        kinds = {"measurements": "measurement", "procedures": "procedure"}
        n_events = write_events(self.records, to, kinds)
        self._count_left_out("events", "meds ANTI JOIN roles USING (code)", _NO_ROLE)
        return n_events

    def _write_codes(self, to: Path) -> int:
        """Orders and the like; of history only where the diagnoses are read, not where labels have
        a folder of their own.
        """
        self._make_rows("code_rows", "code")
        self._make_rows("procedure_rows", "coded_procedure")
        self.connection.execute(render_sql(_SQL / "codes.sql"))
        define_code_paths(self.connection)
        if self.label_files:
            self._count_left_out("codes", "procedure_rows", _OWN_LABELS)
            parts = []
        else:
            parts = make_history(self, has_procedures=True)
        self.connection.execute(render_sql(_SQL / "typed_codes.sql"))
        parts.append(place_codes(self.records, "codes"))
        parts.append(make_measured_before(self, "omr"))
        return self.write_parts(to / "codes.parquet", CODES, parts, CODES_ORDER)

    def _write_notes(self, to: Path) -> int:
        self._make_rows("note_rows", "note")
        self.connection.execute(render_sql(_SQL / "notes.sql"))
        make_notes(self, "notes")
        removed = (
            ", ".join(quote_literal(kind) for kind in sorted(gives_away(self.rules))) or "NULL"
        )
        self.connection.execute(
            f"""CREATE TEMP VIEW typed_notes AS SELECT notes_of_notes.*, raw.kind,
            CASE WHEN raw.kind IN ({removed}) THEN {quote_literal(GIVEN_AWAY)} END AS reason
            FROM notes_of_notes JOIN raw_notes raw USING (source_row)"""
        )
        self.records.place("notes", "notes")
        parts = [
            "FROM placed_notes WHERE reason IS NULL AND kind IS DISTINCT FROM 'discharge'",
            f"""SELECT * REPLACE ({NOT_BEFORE_DISCHARGE}) FROM placed_notes
            WHERE reason IS NULL AND kind = 'discharge'""",
        ]
        return self.write_parts(to / "notes.parquet", NOTES, parts, NOTES_ORDER)
