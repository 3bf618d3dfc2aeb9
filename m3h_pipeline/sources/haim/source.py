"""The source: HAIM's files to the canonical tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import (
    EMBEDDINGS,
    EVENTS,
    IMAGES,
    LABELS,
    NOTES,
    Settings,
    Source,
    listing_fingerprint,
    samples_schema,
)
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.haim.layout import (
    FACTS,
    FILE,
    KEYS,
    MODALITIES,
    OWN_IMAGE,
    PATHOLOGIES,
    TASKS,
    WIDTHS,
    list_columns,
    name_task,
)
from m3h_pipeline.sources.raw_tables import RawReader, RawTable, find_file, open_table
from m3h_pipeline.sources.tasks_file import write_tasks
from m3h_pipeline.state.database import open_database, quote_literal, spill_folder
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent
_COLUMNS = Columns(features=(), audit=("sex",))
_LIMITS = (
    "Radiology notes (n_rad_) are left out for all tasks: the pathologies' labels were read from "
    "them.",
    "The vectors were made by HAIM's pipeline: procedures are not cut at the image's time, and "
    "records count from when they were taken, not from when they were known.",
)
_NO_KEYS = (
    f"There was no {KEYS}.csv beside the file, so a patient is an admission: one with several "
    "admissions can be in train and in test."
)


@dataclass
class Haim(Source):
    """A folder that holds the embedding file, and HAIM's table of keys where there is one."""

    path: Path
    name: ClassVar[str] = "haim"

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at the header."""
        self._open_tables()

    def fingerprint(self) -> str:
        """Hash over the listing of the two files."""
        files = [find_file(self.path, name) for name in (FILE, KEYS)]
        return listing_fingerprint(self.path, [file for file in files if file])

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        tables = self._open_tables()
        spill = spill_folder(to, settings.spill)
        columns = {"images": FACTS, "keys": ["subject_id"]}
        if "keys" in tables and "haim_id" in tables["keys"].columns:
            columns["keys"] = ["subject_id", "haim_id"]
        with open_database(spill, settings.memory_limit) as connection:
            reader = RawReader(connection, spill)
            counts = _HaimExtraction(connection, reader, tables, settings, columns).extract(to)
        write_tasks(to, TASKS)
        _COLUMNS.save(to)
        limits = [*_LIMITS] if "keys" in tables else [*_LIMITS, _NO_KEYS]
        return {**counts, "limits": limits}

    def _open_tables(self) -> dict[str, RawTable]:
        file = find_file(self.path, FILE) if self.path.is_dir() else None
        if file is None:
            raise InputError(
                f"{self.path} has no {FILE}.csv: name the folder that holds HAIM-MIMIC-MM's "
                "embedding file"
            )
        needed: list[str] = list(FACTS)
        for prefix in WIDTHS:
            needed += list_columns(prefix)
        tables = {"images": open_table(self.path, file, needed)}
        if keys := find_file(self.path, KEYS):
            tables["keys"] = open_table(self.path, keys, ["subject_id"])
        return tables


@dataclass(kw_only=True)
class _HaimExtraction(Extraction):
    """One pass over the file; its thousands of numbers a row become four vectors as they are
    read.
    """

    def extract(self, to: Path) -> dict[str, Any]:
        self.define_macros(self.settings.timezone)
        self.connection.execute(render_sql(_SQL / "macros.sql"))
        self.load(
            "images",
            derived={name: _render_vector(prefixes) for name, prefixes in MODALITIES.items()},
        )
        self._make_subjects()
        query = render_sql(
            _SQL / "image_rows.sql",
            modalities=MODALITIES,
            pathologies={name_task(name): name for name in PATHOLOGIES},
            tasks=[task.name for task in TASKS],
        )
        self.connection.execute(query)
        self.connection.execute("DROP TABLE raw_images")
        self.register_splits("image_rows")
        self.count("samples", "images", "image_rows")
        if "keys" in self.tables:
            self.count("samples", "keys", "key_rows")
        return {
            "samples": self._write_samples(to),
            "events": self.write_parts(to / "events.parquet", EVENTS, [], "stay_id"),
            "notes": self.write_parts(to / "notes.parquet", NOTES, [], "stay_id"),
            "images": self.write_parts(to / "images.parquet", IMAGES, [], "stay_id"),
            "labels": self._write_labels(to),
            "embeddings": self._write_embeddings(to),
            **self.close(to),
        }

    def _make_subjects(self) -> None:
        """The SQL table ``subjects``: haim_id, subject_id (null: not in the table of keys)."""
        if "keys" not in self.tables:
            self.connection.execute(render_sql(_SQL / "subjects_by_image.sql"))
            return
        self.load("keys")
        has_haim_id = "haim_id" in self.columns["keys"]
        self.connection.execute(render_sql(_SQL / "subjects_by_key.sql", has_haim_id=has_haim_id))

    def _write_samples(self, to: Path) -> int:
        file = quote_literal(self.tables["images"].name)
        rows = (
            f"SELECT *, {file} AS source_file FROM image_rows LEFT JOIN splits USING (subject_id) "
            "WHERE reason IS NULL"
        )
        schema = samples_schema({"sex": "VARCHAR"})
        return self.write(to / "samples.parquet", schema, rows, "sample_id, place, source_row")

    def _write_labels(self, to: Path) -> int:
        file = quote_literal(self.tables["images"].name)
        parts = [
            f"SELECT sample_id, '{task.name}' AS task, {task.name} AS value, source_row, {file} AS "
            f"source_file FROM image_rows WHERE is_first AND {task.name} IS NOT NULL"
            for task in TASKS
        ]
        return self.write_parts(to / "labels.parquet", LABELS, parts, "sample_id, task")

    def _write_embeddings(self, to: Path) -> int:
        """The vectors have no source_file: a row of the file is counted once, as the sample that it
        is.
        """
        parts = [
            f"SELECT sample_id, '{modality}' AS modality, {modality} AS vector FROM image_rows "
            "WHERE is_first"
            for modality in MODALITIES
        ]
        file = to / "embeddings.parquet"
        return self.write_parts(file, EMBEDDINGS, parts, "sample_id, modality")


def _render_vector(prefixes: Sequence[str]) -> str:
    """SQL of a modality's vector: the numbers of its columns, one after the other."""
    parts = []
    for prefix in prefixes:
        numbers = f"[{', '.join(list_columns(prefix))}]"
        if own := OWN_IMAGE.get(prefix):
            pairs = f"list_zip({numbers}, [{', '.join(list_columns(own))}])"
            parts.append(f"list_transform({pairs}, lambda pair: haim_number_or(pair[1], pair[2]))")
        else:
            parts.append(f"list_transform({numbers}, lambda number: haim_number(number))")
    return " || ".join(parts)
