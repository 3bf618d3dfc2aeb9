"""The way of a source's data to the inputs, without Dagster: extracted, split by contracts, cut at
the prediction.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.split import SplitResult, split_rows
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.sources import Settings, Source, extract
from m3h_pipeline.state.layout import valid_folder


class Passage:
    """A source's tables in ``to``: ``ingested/``, ``valid_<table>/`` and ``inputs/``."""

    def __init__(self, source: Source, to: Path, settings: Settings | None = None) -> None:
        self.to = to
        self.ingested = to / "ingested"
        inputs = to / "inputs"
        for folder in (self.ingested, inputs, *(valid_folder(to, table) for table in TABLES)):
            folder.mkdir(parents=True)
        source.check()
        self.facts: dict[str, Any] = extract(source, self.ingested, settings or Settings())
        self.split: dict[str, SplitResult] = {table: self._split(table) for table in TABLES}
        (valid_folder(to, "samples") / "columns.json").write_bytes(
            (self.ingested / "columns.json").read_bytes()
        )
        write_inputs({table: valid_folder(to, table) for table in TABLES}, inputs)

    def _split(self, table: str) -> SplitResult:
        own = self.ingested / "signals.json"
        samples = (
            None if table == "samples" else valid_folder(self.to, "samples") / "samples.parquet"
        )
        valid = valid_folder(self.to, table)
        return split_rows(
            table,
            self.ingested / f"{table}.parquet",
            valid / f"{table}.parquet",
            valid / "quarantine.parquet",
            samples=samples,
            quarantined_samples=samples and samples.with_name("quarantine.parquet"),
            tasks=[
                TaskSpec.from_dict(task)
                for task in json.loads((self.ingested / "tasks.json").read_text())
            ],
            signals=json.loads(own.read_text()) if own.exists() else [],
        )

    def read(self, table: str) -> pl.DataFrame:
        """An ingested table."""
        return pl.read_parquet(self.ingested / f"{table}.parquet")

    def valid(self, table: str) -> pl.DataFrame:
        """What was kept of a table."""
        return pl.read_parquet(valid_folder(self.to, table) / f"{table}.parquet")

    def reasons(self, table: str) -> list[tuple[str, str]]:
        """Rule and reason of each row of a table that was quarantined."""
        return (
            pl.read_parquet(valid_folder(self.to, table) / "quarantine.parquet")
            .select("rule", "reason")
            .rows()
        )

    def out_of_scope(self, table: str) -> dict[str, int]:
        """Reason -> rows of a table that are out of scope."""
        rows = self.read("lineage").filter(
            (pl.col("table") == table) & (pl.col("outcome") == "out_of_scope")
        )
        return dict(rows.group_by("reason").agg(pl.col("rows").sum()).iter_rows())

    def inputs(self) -> dict[str, bytes]:
        """Bytes of the input files."""
        return {file.name: file.read_bytes() for file in (self.to / "inputs").iterdir()}
