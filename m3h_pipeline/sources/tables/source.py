"""The source: from a folder of tables to the canonical tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Settings, Source, listing_fingerprint
from m3h_pipeline.sources.prediction import need_mode
from m3h_pipeline.sources.raw_tables import RawReader, find_file
from m3h_pipeline.sources.raw_tables.headers import select_known_names
from m3h_pipeline.sources.tables.cohort_file import FILE, CohortFile, load_cohort_file
from m3h_pipeline.sources.tables.folder import open_tables
from m3h_pipeline.sources.tables.formats import FORMATS, collect_vocabulary, select_columns
from m3h_pipeline.sources.tables.labels import write_embeddings, write_labels
from m3h_pipeline.sources.tables.reading import TablesExtraction
from m3h_pipeline.sources.tables.records import (
    write_codes,
    write_events,
    write_images,
    write_notes,
)
from m3h_pipeline.sources.tables.samples import write_samples
from m3h_pipeline.sources.tasks_file import write_tasks
from m3h_pipeline.state.database import open_database, spill_folder


@dataclass
class Tables(Source):
    """A folder that holds ``samples``, ``labels``, ``cohort.yaml`` and, where there are, the other
    tables.
    """

    path: Path
    name: ClassVar[str] = "tables"
    prediction_modes = ("admission", "given")

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at cohort.yaml, at which files there are and at their headers."""
        open_tables(self.path, self._load_cohort())

    def fingerprint(self) -> str:
        """Hash over the listing of the tables, and of all that lies below the folder where there
        are images.
        """
        has_images = find_file(self.path, "images") is not None
        files = [
            file
            for file in self.path.iterdir()
            if not file.name.startswith(".") and (has_images or file.is_file())
        ]
        return listing_fingerprint(self.path, files)

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`. The time zone is that of
        cohort.yaml.
        """
        need_mode(self.name, settings.prediction, self.prediction_modes)
        cohort = self._load_cohort()
        tables = open_tables(self.path, cohort)
        columns = {table: select_columns(table, raw, cohort) for table, raw in tables.items()}
        spill = spill_folder(to, settings.spill)
        with open_database(spill, settings.memory_limit) as connection:
            reader = RawReader(connection, spill)
            extraction = TablesExtraction(
                connection, reader, tables, settings, columns, cohort=cohort, folder=self.path
            )
            extraction.define_tables_macros()
            counts = {
                "samples": write_samples(extraction, to),
                "events": write_events(extraction, to),
                "codes": write_codes(extraction, to),
                "notes": write_notes(extraction, to),
                "images": write_images(extraction, to),
                "labels": write_labels(extraction, to),
                "embeddings": write_embeddings(extraction, to),
                **extraction.close(to),
            }
        write_tasks(to, cohort.tasks)
        cohort.columns.save(to)
        unread = {
            table: sorted(set(raw.columns) - set(columns[table])) for table, raw in tables.items()
        }
        return {
            **counts,
            "absent": sorted(FORMATS.keys() - tables.keys()),
            **_describe_unread_columns(unread, cohort),
        }

    def _load_cohort(self) -> CohortFile:
        if not self.path.is_dir():
            raise InputError(
                f"{self.path} is not a folder: name the one that holds samples, labels and {FILE}"
            )
        return load_cohort_file(self.path)


def _describe_unread_columns(unread: dict[str, list[str]], cohort: CohortFile) -> dict[str, Any]:
    """Names of columns that are not read where they are known, else how many there are."""
    vocabulary = collect_vocabulary(cohort)
    known_names = {}
    n_unknown = {}
    for table, columns in unread.items():
        names = select_known_names(columns, vocabulary)
        if names:
            known_names[table] = names
        if len(names) < len(columns):
            n_unknown[table] = len(columns) - len(names)
    return {"columns not read": known_names, "columns not read, of unknown names": n_unknown}
