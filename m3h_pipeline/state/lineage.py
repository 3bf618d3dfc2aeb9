"""Lineage: what became of every row that was read. Its sums are checked wherever rows change hands.

A lineage table has the columns table, file, sha256, outcome (kept, out_of_scope, quarantined),
reason, rows. A row is one of a file: a stay with a prediction each night is one of its file and
several of the samples table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

KEPT = "kept"
OUT_OF_SCOPE = "out_of_scope"
QUARANTINED = "quarantined"
# Many diagnoses make one label: what is kept of their file can't be counted in the table.
_MADE_FROM_MANY = ("labels",)
# Their rows may come from a file that is counted elsewhere.
_MADE_FROM_SEVERAL = ("samples", "embeddings")


def find_unaccounted(ingested: Path, table: str, rows_read: Mapping[str, int]) -> list[str]:
    """What does not add up in the lineage of one ingested table; empty where every row read is
    accounted for.

    ``rows_read``: file -> rows, as the source counted them while reading.
    """
    lineage = pl.read_parquet(ingested / "lineage.parquet")
    known_files = set(lineage["file"])
    lineage = lineage.filter(pl.col("table") == table)
    problems = []
    if (lineage["rows"] < 0).any():
        problems.append("an outcome has fewer than 0 rows")
    accounted = lineage.group_by("file").agg(pl.col("rows").sum()).sort("file")
    for file, rows in accounted.iter_rows():
        if rows != rows_read.get(file, rows):
            problems.append(
                f"{file}: {rows_read[file]:,} rows were read, {rows:,} are accounted for"
            )
    if table in _MADE_FROM_MANY:
        return problems
    kept = dict(
        lineage.filter(pl.col("outcome") == KEPT)
        .group_by("file")
        .agg(pl.col("rows").sum())
        .iter_rows()
    )
    counted = _count_table_rows(ingested / f"{table}.parquet", kept)
    # A file of samples may only say more of a patient; another may be counted under the table that
    # most of it became.
    files = set(kept)
    if table in _MADE_FROM_SEVERAL:
        files &= counted.keys()
    problems += [
        f"{file}: {kept[file]:,} rows are said to be kept, {counted.get(file, 0):,} lie there"
        for file in sorted(files)
        if kept[file] != counted.get(file, 0)
    ]
    return problems + [
        f"{file}: the lineage does not know it" for file in sorted(counted.keys() - known_files)
    ]


def count_rows_by_file(rows: pl.LazyFrame) -> pl.DataFrame:
    """File -> how many of its rows became these rows of a table (source_file and source_row)."""
    file_rows = rows.select(pl.col("source_file").alias("file"), "source_row").drop_nulls()
    return (
        file_rows.unique()
        .group_by("file")
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .collect(engine="streaming")
    )


def _count_table_rows(table: Path, kept: Mapping[str, int]) -> dict[str, int]:
    rows = pl.scan_parquet(table)
    table_rows = (
        rows.drop_nulls("source_row")
        .group_by("source_file")
        .len()
        .collect(engine="streaming")
        .drop_nulls()
    )
    counts = dict(table_rows.sort("source_file").iter_rows())
    # Only where rows of the table are more than rows of the file are these told apart: that takes
    # memory.
    several = [file for file, n in counts.items() if n != kept.get(file, n)]
    file_rows = count_rows_by_file(rows.filter(pl.col("source_file").is_in(several)))
    return counts | dict(file_rows.iter_rows())


def move_rows(lineage: pl.DataFrame, rows: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Take rows out of the kept ones and count them under another outcome; the sum for each file
    stays.

    ``rows``: table, file, reason, rows. Raises `ArithmeticError` where more rows would move than
    were kept.

    >>> notes = {"table": ["notes"], "file": ["n.csv"]}
    >>> kept = {"sha256": ["0f"], "outcome": ["kept"], "reason": [None], "rows": [10]}
    >>> lineage = pl.DataFrame(notes | kept, schema_overrides={"reason": pl.String})
    >>> rows = pl.DataFrame(notes | {"reason": ["empty_text"], "rows": [2]})
    >>> move_rows(lineage, rows, "quarantined").select("outcome", "reason", "rows").rows()
    [('kept', None, 8), ('quarantined', 'empty_text', 2)]
    """
    hashes = lineage.select("table", "file", "sha256").unique()
    added = rows.join(hashes, on=["table", "file"]).with_columns(pl.lit(outcome).alias("outcome"))
    added = added.select(lineage.columns).cast(dict(lineage.schema)).sort("table", "file", "reason")
    lost = added.group_by("table", "file").agg(pl.col("rows").sum().alias("lost"))
    is_kept = pl.col("outcome") == KEPT
    left = lineage.join(lost, on=["table", "file"], how="left", maintain_order="left").with_columns(
        pl.when(is_kept)
        .then(pl.col("rows") - pl.col("lost").fill_null(0))
        .otherwise(pl.col("rows"))
        .alias("rows")
    )
    if (left["rows"] < 0).any():
        raise ArithmeticError("lineage: more rows of a file went elsewhere than were kept of it")
    whole = pl.concat([left.drop("lost"), added])
    keys = ["table", "file", "sha256", "outcome", "reason"]
    whole = whole.group_by(keys, maintain_order=True).agg(pl.col("rows").sum())
    # Without rows a file is only mentioned where nothing of it is left to mention.
    is_only = pl.len().over("table", "file") == 1
    return whole.filter((pl.col("rows") > 0) | is_only).select(lineage.columns)


def read_whole_lineage(ingested: Path, valid: Mapping[str, Path]) -> pl.DataFrame:
    """The ingestion's lineage with quarantined rows taken out of the kept ones; it still sums to
    the rows read.

    ``valid``: table -> the folder of its validation. A row of a file counts as quarantined where
    nothing that was made of it was kept; the reason is that of the first.
    """
    lineage = pl.read_parquet(ingested / "lineage.parquet")
    quarantined = pl.concat(
        _read_quarantined(
            ingested / f"{table}.parquet", folder / "quarantine.parquet"
        ).with_columns(pl.lit(table).alias("table"))
        for table, folder in valid.items()
    )
    whole = move_rows(lineage, quarantined, QUARANTINED)
    if not _sum_by_file(lineage).equals(_sum_by_file(whole)):
        raise ArithmeticError(
            "lineage: the rows of a file no longer sum to the rows that were read"
        )
    return whole


def _sum_by_file(lineage: pl.DataFrame) -> pl.DataFrame:
    return lineage.group_by("file").agg(pl.col("rows").sum()).sort("file")


def _read_quarantined(table: Path, quarantine: Path) -> pl.DataFrame:
    """Rows of files that went to quarantine as a whole: file, reason, rows."""
    row = ["source_file", "source_row"]
    wrong = pl.read_parquet(quarantine, columns=["rule", *row]).drop_nulls(row)
    wrong = wrong.group_by(row, maintain_order=True).agg(
        pl.len().alias("wrong"), pl.col("rule").first()
    )
    made = (
        pl.scan_parquet(table)
        .select(row)
        .join(wrong.lazy(), on=row, how="semi")
        .group_by(row)
        .len("made")
    )
    quarantined = wrong.join(made.collect(engine="streaming"), on=row).filter(
        pl.col("wrong") == pl.col("made")
    )
    counts = quarantined.group_by(
        pl.col("source_file").alias("file"), pl.col("rule").alias("reason")
    ).len("rows")
    return counts.with_columns(pl.col("rows").cast(pl.Int64))
