"""The rows of a synthetic hospital's tables, as text."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import polars as pl

N_STAYS = 300


def read_rows(hospital: Path, table: str, n_rows: int | None = None) -> pl.DataFrame:
    """A table as text, without its wrong bytes."""
    text = gzip.decompress((hospital / f"{table}.csv.gz").read_bytes()).decode(errors="replace")
    return pl.read_csv(io.StringIO(text), infer_schema=False, n_rows=n_rows)


def read_right_rows(hospital: Path, table: str, wrong: pl.DataFrame) -> pl.DataFrame:
    """Those of a table that are not wrong on purpose."""
    bad = wrong.filter(file=f"{table}.csv.gz")["row"].to_list()
    rows = read_rows(hospital, table).with_row_index("row", 1)
    return rows.filter(~pl.col("row").is_in(bad)).drop("row")
