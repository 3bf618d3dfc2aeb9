"""A folder in the Medical Event Data Standard as a source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.admissions.samples import COLUMNS
from m3h_pipeline.sources.base import Settings, Source, listing_fingerprint
from m3h_pipeline.sources.meds.extraction import MedsExtraction
from m3h_pipeline.sources.meds.label_folder import LabelFiles, find_label_files, make_rules
from m3h_pipeline.sources.meds.roles import CodeMapping, read_mapping
from m3h_pipeline.sources.meds.schemas import check_schema, name_shards
from m3h_pipeline.sources.prediction import need_mode
from m3h_pipeline.sources.raw_tables import RawReader
from m3h_pipeline.sources.tasks_file import limits_of, load_tasks, write_tasks
from m3h_pipeline.state.database import open_database, spill_folder
from m3h_pipeline.state.paths import contracts_folder


@dataclass
class Meds(Source):
    """A MEDS dataset.

    ``codes``: a mapping of the hospital's own; ``labels``: a folder of MEDS labels, a file or a
    folder a task.
    """

    path: Path
    codes: Path | None = None
    labels: Path | None = None
    name: ClassVar[str] = "meds"

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()
        self.prediction_modes = ("given",) if self.labels else ("admission", "icu", "nightly")

    def check(self) -> None:
        """Hold the layout, the mapping and the columns of every file against the standard."""
        self._shards()
        self._read_mapping()
        self._label_files()

    def fingerprint(self) -> str:
        """Hash over the listing of data, metadata and labels, and the bytes of the mapping."""
        digest = hashlib.sha256(self._mapping_file().read_bytes())
        folders = [self.path / "data", self.path / "metadata"]
        digest.update(listing_fingerprint(self.path, folders).encode())
        if self.labels:
            digest.update(listing_fingerprint(self.labels, [self.labels]).encode())
        return digest.hexdigest()[:32]

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        need_mode(self.name, settings.prediction, self.prediction_modes)
        shards = self._shards()
        label_files = self._label_files()
        if label_files:
            rules = make_rules(label_files, settings.tasks)
        else:
            rules = load_tasks(only=settings.tasks)
        spill = spill_folder(to, settings.spill)
        with open_database(spill, settings.memory_limit) as connection:
            extraction = MedsExtraction(
                connection,
                RawReader(connection, spill),
                {},
                settings,
                {},
                root=self.path,
                rules=rules,
                mapping=self._read_mapping(),
                files={f"data/{name}": file for name, file in shards.items()},
                label_files=label_files,
            )
            try:
                extraction.prepare()
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error:
                raise InputError(
                    f"{self.path} can't be read: a file is damaged; copy it again"
                ) from None
            counts = extraction.extract(to)
        write_tasks(to, [rule.spec for rule in rules])
        COLUMNS.save(to)
        return {**counts, "limits": limits_of(rules)}

    def _mapping_file(self) -> Path:
        return self.codes or contracts_folder() / "meds.yaml"

    def _read_mapping(self) -> CodeMapping:
        return read_mapping(self._mapping_file())

    def _shards(self) -> dict[str, Path]:
        """Name -> file of the data, each held against the standard; the metadata, too."""
        from meds import CodeMetadataSchema, DataSchema, SubjectSplitSchema

        data = self.path / "data"
        files = sorted(data.rglob("*.parquet"))
        if not files:
            raise InputError(
                f"{self.path} is no MEDS folder: it lacks data/**/*.parquet; "
                "name the folder that holds data/ and metadata/"
            )
        shards = name_shards(data, files)
        for name, file in shards.items():
            check_schema(file, DataSchema, data / name)
        for name, schema in (("codes", CodeMetadataSchema), ("subject_splits", SubjectSplitSchema)):
            file = self.path / "metadata" / f"{name}.parquet"
            if file.exists():
                check_schema(file, schema, file)
        return shards

    def _label_files(self) -> LabelFiles:
        """Task -> its files; none where there is no folder of labels."""
        return find_label_files(self.labels) if self.labels else {}
