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
    known = set(lineage["file"])
    lineage = lineage.filter(pl.col("table") == table)
    problems = []
    if (lineage["rows"] < 0).any():
        problems.append("an outcome has fewer than 0 rows")
    said = dict(lineage.group_by("file").agg(pl.col("rows").sum()).sort("file").iter_rows())
    for file, rows in said.items():
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
    lying = _rows_by_file(ingested / f"{table}.parquet", kept)
    # A file of samples may only say more of a patient; another may be counted under the table that
    # most of it became.
    files = kept.keys() if table not in _MADE_FROM_SEVERAL else kept.keys() & lying.keys()
    problems += [
        f"{file}: {kept[file]:,} rows are said to be kept, {lying.get(file, 0):,} lie there"
        for file in sorted(files)
        if kept[file] != lying.get(file, 0)
    ]
    return problems + [
        f"{file}: the lineage does not know it" for file in sorted(lying.keys() - known)
    ]


def count_rows_by_file(rows: pl.LazyFrame) -> pl.DataFrame:
    """File -> how many of its rows became these rows of a table (source_file and source_row)."""
    known = rows.select(pl.col("source_file").alias("file"), "source_row").drop_nulls()
    return (
        known.unique()
        .group_by("file")
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .collect(engine="streaming")
    )


def _rows_by_file(table: Path, kept: Mapping[str, int]) -> dict[str, int]:
    rows = pl.scan_parquet(table)
    plain = (
        rows.drop_nulls("source_row")
        .group_by("source_file")
        .len()
        .collect(engine="streaming")
        .drop_nulls()
    )
    counts = dict(plain.sort("source_file").iter_rows())
    # Only where rows of the table are more than rows of the file are these told apart: that takes
    # memory.
    several = [file for file, n in counts.items() if n != kept.get(file, n)]
    return counts | dict(
        count_rows_by_file(rows.filter(pl.col("source_file").is_in(several))).iter_rows()
    )


def move_rows(lineage: pl.DataFrame, rows: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Take rows out of the kept ones and count them under another outcome; the sum for each file
    stays.

    ``rows``: table, file, reason, rows. Raises `ArithmeticError` where more rows would move than
    were kept.

    >>> lineage = pl.DataFrame({"table": ["notes"], "file": ["n.csv"], "sha256": ["0f"], "outcome": ["kept"],
    ...                         "reason": [None], "rows": [10]}, schema_overrides={"reason": pl.String})
    >>> rows = pl.DataFrame({"table": ["notes"], "file": ["n.csv"], "reason": ["empty_text"], "rows": [2]})
    >>> move_rows(lineage, rows, "quarantined").select("outcome", "reason", "rows").rows()
    [('kept', None, 8), ('quarantined', 'empty_text', 2)]
    """
    hashes = lineage.select("table", "file", "sha256").unique()
    found = rows.join(hashes, on=["table", "file"]).with_columns(pl.lit(outcome).alias("outcome"))
    found = found.select(lineage.columns).cast(dict(lineage.schema)).sort("table", "file", "reason")
    lost = found.group_by("table", "file").agg(pl.col("rows").sum().alias("lost"))
    is_kept = pl.col("outcome") == KEPT
    left = lineage.join(lost, on=["table", "file"], how="left", maintain_order="left").with_columns(
        pl.when(is_kept)
        .then(pl.col("rows") - pl.col("lost").fill_null(0))
        .otherwise(pl.col("rows"))
        .alias("rows")
    )
    if (left["rows"] < 0).any():
        raise ArithmeticError("lineage: more rows of a file went elsewhere than were kept of it")
    whole = pl.concat([left.drop("lost"), found])
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
        _quarantined(ingested / f"{table}.parquet", folder / "quarantine.parquet").with_columns(
            pl.lit(table).alias("table")
        )
        for table, folder in valid.items()
    )
    whole = move_rows(lineage, quarantined, QUARANTINED)
    read, told = (
        part.group_by("file").agg(pl.col("rows").sum()).sort("file") for part in (lineage, whole)
    )  # fmt: skip
    if not read.equals(told):
        raise ArithmeticError(
            "lineage: the rows of a file no longer sum to the rows that were read"
        )
    return whole


def _quarantined(table: Path, quarantine: Path) -> pl.DataFrame:
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
    gone = wrong.join(made.collect(engine="streaming"), on=row).filter(
        pl.col("wrong") == pl.col("made")
    )
    counts = gone.group_by(pl.col("source_file").alias("file"), pl.col("rule").alias("reason")).len(
        "rows"
    )
    return counts.with_columns(pl.col("rows").cast(pl.Int64))
