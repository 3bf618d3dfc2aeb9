"""The first pass over tables of records: how many training stays have each item, in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3h_core.data.cohort import TRAIN
from m3h_pipeline.sources.covered.items import ItemCounts
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

_JOIN = """LEFT JOIN training_periods
    ON training_key = coalesce(as_id(hadm_id), as_id(subject_id))
    AND training_by_stay = (as_id(hadm_id) IS NOT NULL)"""


@dataclass(frozen=True)
class RecordColumns:
    """SQL of what is counted, over the text columns of a table of records.

    ``number`` is null where a row holds none, ``text`` where it holds none of these either.
    """

    taken: str
    available: str
    number: str
    text: str
    unit: str


def make_training_periods(extraction: Extraction) -> int:
    """What `count_items` looks up, of ``sample_rows`` and ``splits``; return how many training
    stays there are.
    """
    extraction.connection.execute(render_sql(_SQL / "training_periods.sql", train=TRAIN))
    query = "SELECT count(*) FROM training_periods WHERE training_by_stay"
    (n_stays,) = extraction.connection.execute(query).fetchall()[0]
    return n_stays


def count_items(extraction: Extraction, table: str, columns: RecordColumns) -> None:
    """Make ``counts_of_<table>``: rows of a raw table by item, unit, what they hold, and the
    training stay of which they were known at the prediction (else null).

    It grows with pairs of training stays and items, not with the rows of the file.
    """
    in_training = f"training_stay(periods, {columns.taken}, {columns.available})"
    has_number = f"{columns.number} IS NOT NULL"
    has_value = f"{has_number} OR {columns.text} IS NOT NULL"
    groups = {
        "item": "as_text(itemid)",
        "unit": f"as_text({columns.unit})",
        "normal": f"normal_unit({columns.unit})",
        "content": f"""CASE WHEN {has_number} THEN 'number'
            WHEN {columns.text} IS NOT NULL THEN 'text' ELSE 'nothing' END""",
        "stay": f"CASE WHEN periods IS NOT NULL AND ({has_value}) THEN {in_training} END",
    }
    extraction.reader.count(
        extraction.tables[table],
        f"counts_of_{table}",
        extraction.columns[table],
        groups,
        _JOIN,
    )


def read_counts(extraction: Extraction, tables: Sequence[str]) -> list[ItemCounts]:
    """What was counted of each item, table by table; the groups are dropped."""
    counted: list[ItemCounts] = []
    for table in tables:
        name = f"counts_of_{table}"
        query = render_sql(_SQL / "item_counts.sql", counts=name)
        rows = extraction.connection.execute(query).fetchall()
        counted += [_read_row(table, *row) for row in rows]
        extraction.connection.execute(f"DROP TABLE {name}")
    extraction.connection.execute("DROP TABLE training_periods")
    return counted


def _read_row(
    table: str,
    item: str,
    rows: int,
    stays: int,
    numbers: int,
    texts: int,
    written: Sequence[str],
    normals: Sequence[str],
    unit_rows: Sequence[int],
) -> ItemCounts:
    units: Mapping[str, int] = dict(zip(written, unit_rows, strict=True))
    seen = {unit: count for unit, count in units.items() if count}
    spellings = dict(zip(normals, written, strict=True))
    return ItemCounts(item, table, rows, stays, numbers, texts, seen, spellings)
