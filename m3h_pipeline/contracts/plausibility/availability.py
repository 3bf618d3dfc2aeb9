"""When results became known: what it means where only the time of the measurement was given."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import polars as pl

from m3h_pipeline.contracts.plausibility.findings import Finding
from m3h_pipeline.wording import join_words

# Columns that say when something was done or known, by what hospitals call them.
_TIME_LIKE = re.compile(
    "charttime|taken|collected|drawn|sampled|result|stored|filed|verified|posted"
)
_MIN_ROWS = 100
_NAMED = 8


def select_time_columns(columns: Collection[str]) -> list[str]:
    """Of these columns, those that look like a time.

    >>> select_time_columns(["charttime", "nurse", "result_dt"])
    ['charttime', 'result_dt']
    """
    return [name for name in columns if _TIME_LIKE.search(name.lower())]


def find_missing_availability(
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
    if whole < _MIN_ROWS:
        return [], 0
    follows = (
        "so each counts as known at the moment it was taken, and a result may enter a model "
        "before anybody had it"
    )
    if int(counts["same"].sum()) == whole:
        columns = select_time_columns(unread)
        verb = "is" if len(columns) == 1 else "are"
        beside = f" ({join_words(columns)} {verb} in the file, and not read)" if columns else ""
        words = f"it is missing or the same as time in all {whole:,} rows{beside}, {follows}"
        return [_build_finding(table, whole, whole, words)], len(counts)
    at_once = counts.filter(
        pl.col("code").is_in(list(labs)),
        pl.col("rows") == pl.col("same"),
        pl.col("rows") >= _MIN_ROWS,
    )
    if at_once.is_empty():
        return [], len(counts)
    names = at_once["code"].to_list()
    named = join_words(names[:_NAMED])
    if len(names) > _NAMED:
        named += f" and {len(names) - _NAMED} more"
    affected = int(at_once["rows"].sum())
    words = (
        f"for the laboratory values {named} it is the same as time in all {affected:,} rows, "
        f"{follows}"
    )
    return [_build_finding(table, affected, whole, words)], len(counts)


def _build_finding(table: str, affected: int, whole: int, words: str) -> Finding:
    return Finding(table, "availability", "available_time", False, affected, whole, words)
