"""When results became known: what it means where only the time of the measurement was given."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from m3h_pipeline.contracts.plausibility.findings import Finding
from m3h_pipeline.wording import join_words

# Columns that say when something was done or known, by what hospitals call them.
_TIME_LIKE = (
    "charttime",
    "taken",
    "collected",
    "drawn",
    "sampled",
    "result",
    "stored",
    "filed",
    "verified",
    "posted",
)
_FEWEST_ROWS = 100
_NAMED = 8


def time_like(columns: Collection[str]) -> list[str]:
    """Of these columns, those that look like a time.

    >>> time_like(["charttime", "nurse", "result_dt"])
    ['charttime', 'result_dt']
    """
    return [name for name in columns if any(word in name.lower() for word in _TIME_LIKE)]


def always_known_at_once(
    rows: pl.LazyFrame, labs: Collection[str], unread: Sequence[str], table: str
) -> tuple[list[Finding], int]:
    """Findings, and how many codes were looked at: of all codes together, else of laboratory values
    one by one.
    """
    same = (pl.col("available_time") == pl.col("time")).sum().alias("same")
    counts = (
        rows.group_by("code")
        .agg(pl.len().alias("rows"), same)
        .sort("code")
        .collect(engine="streaming")
    )
    whole = int(counts["rows"].sum())
    if whole < _FEWEST_ROWS:
        return [], 0
    follows = (
        "so each counts as known at the moment it was taken, and a result may enter a model "
        "before anybody had it"
    )
    if int(counts["same"].sum()) == whole:
        beside = ""
        if columns := time_like(unread):
            verb = "is" if len(columns) == 1 else "are"
            beside = f" ({join_words(columns)} {verb} in the file, and not read)"
        words = f"it is missing or the same as time in all {whole:,} rows{beside}, {follows}"
        return [Finding(table, "availability", "available_time", False, whole, whole, words)], len(
            counts
        )
    at_once = counts.filter(
        pl.col("code").is_in(list(labs)),
        pl.col("rows") == pl.col("same"),
        pl.col("rows") >= _FEWEST_ROWS,
    )
    if at_once.is_empty():
        return [], len(counts)
    names = at_once["code"].to_list()
    named = join_words(names[:_NAMED]) + (
        f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    )
    affected = int(at_once["rows"].sum())
    words = (
        f"for the laboratory values {named} it is the same as time in all {affected:,} rows, "
        f"{follows}"
    )
    return [Finding(table, "availability", "available_time", False, affected, whole, words)], len(
        counts
    )
