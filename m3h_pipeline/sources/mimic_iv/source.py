"""A folder of MIMIC-IV as a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_pipeline.sources.admissions.samples import COLUMNS
from m3h_pipeline.sources.base import Settings, Source, listing_fingerprint
from m3h_pipeline.sources.mimic_iv.extraction import MimicExtraction
from m3h_pipeline.sources.mimic_iv.files import (
    COLUMNS_READ,
    find_files,
    find_image_folders,
    list_absent,
    need_table_of_mode,
    open_tables,
)
from m3h_pipeline.sources.prediction import need_mode
from m3h_pipeline.sources.raw_tables import RawReader
from m3h_pipeline.sources.tasks_file import limits_of, load_tasks, write_tasks
from m3h_pipeline.state.database import open_database, spill_folder


@dataclass
class MimicIV(Source):
    """A folder in MIMIC-IV's layout (``hosp/``, ``icu/``, and where present ``note/`` and
    ``cxr/``).
    """

    path: Path
    name: ClassVar[str] = "mimic-iv"
    covers_signals: ClassVar[bool] = True
    prediction_modes = ("admission", "icu", "image", "nightly")

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at the layout and at the header of every table."""
        open_tables(self.path)

    def fingerprint(self) -> str:
        """Hash over the listing of the tables that are read, and of the images."""
        files = find_files(self.path).values()
        return listing_fingerprint(self.path, [*files, *find_image_folders(self.path)])

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        need_mode(self.name, settings.prediction, self.prediction_modes)
        with_covered = settings.signal_coverage is not None
        tables = open_tables(self.path, with_covered)
        need_table_of_mode(self.path, tables, settings.prediction)
        rules = load_tasks(only=settings.tasks)
        spill = spill_folder(to, settings.spill)
        with open_database(spill, settings.memory_limit) as connection:
            extraction = MimicExtraction(
                connection,
                RawReader(connection, spill),
                tables,
                settings,
                COLUMNS_READ,
                rules=rules,
                image_folders=find_image_folders(self.path),
            )
            counts = extraction.extract(to)
        write_tasks(to, [rule.spec for rule in rules])
        COLUMNS.save(to)
        return {**counts, "absent": list_absent(tables, with_covered), "limits": limits_of(rules)}
