"""The canonical tables that a folder in MIMIC-IV's layout becomes, as tests look at them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.config import open_source
from m3h_pipeline.sources import Settings, Source, extract

TABLES = ("samples", "events", "codes", "notes", "images", "labels", "lineage")
ENDED = "the stay ended before the prediction time"
_FILES = sorted(
    [*(f"{name}.parquet" for name in (*TABLES, "embeddings")), "columns.json", "tasks.json"]
)


def extract_source(
    source: Source, to: Path, **settings: Any
) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """The canonical tables of a source, written to a folder, and the counts."""
    to.mkdir(parents=True, exist_ok=True)
    counts = extract(source, to, Settings(**settings))
    assert sorted(file.name for file in to.iterdir()) == _FILES
    return {name: pl.read_parquet(to / f"{name}.parquet") for name in TABLES}, counts


def extract_mimic(root: Path, **settings: Any) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """The canonical tables of a folder, written beside it, and the counts."""
    to = root.with_name(root.name + "-ingested")
    return extract_source(open_source("mimic-iv", root), to, **settings)


def count_reasons(lineage: pl.DataFrame, file: str) -> dict[str | None, int]:
    """Reason (None: kept) -> rows of the files whose names begin so."""
    rows = lineage.filter(pl.col("file").str.starts_with(file)).select("reason", "rows")
    return dict(rows.iter_rows())


def when(text: str) -> dt.datetime:
    """A moment."""
    return dt.datetime.fromisoformat(text)
