"""The one place that cuts at the prediction time.

A record enters a sample's inputs only if it was taken, and known, at or before the sample's
prediction time. What comes out depends on those records alone, not on their order and not on
anything known later, to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.state.database import open_database, quote_literal, spill_folder, write_parquet

# file -> the table that it comes from, and its columns beside sample_id; hours: relative to the
# prediction time. Codes are of the tabular modality; a code is a path that begins with its kind.
_RECORDS = {
    "codes": ("codes", ["kind || '/' || code AS code", "hours", "value"]),
    "timeseries": ("events", ["code", "hours", "value"]),
    "language": ("notes", ["hours", "note_id", "kind", "text"]),
    "vision": ("images", ["hours", "image_id", "view", "path"]),
}
# Tables that a hospital may lack as a whole.
_OPTIONAL = ("codes",)
# Rows that an embedding job holds at a time: notes are long.
_GROUP = 4096


def write_inputs(
    valid: Mapping[str, Path], to: Path, memory_limit: str = "4GB", spill: Path | None = None
) -> dict[str, Any]:
    """Write the inputs of every sample into ``to``; return counts.

    ``valid``: table -> the folder that holds ``<table>.parquet`` (samples, events, notes, images;
    beside the samples ``columns.json``; where there are any, ``codes`` and ``embeddings``). Writes
    ``samples`` (sample_id, subject_id, split: the order that all embeddings follow), ``tabular``,
    ``codes`` (which belong to it), ``timeseries``, ``language`` and ``vision`` as Parquet, sorted
    by sample_id, then by all columns; and for a modality whose vectors are given,
    ``given_<modality>`` (sample_id, vector), which then is its input.

    Raises `InputError` where a declared feature is no column of the samples, or is only known after
    the stay.
    """
    features = Columns.load(valid["samples"]).features
    with open_database(spill_folder(to, spill), memory_limit) as connection:
        samples = f"read_parquet({quote_literal(valid['samples'] / 'samples.parquet')})"
        columns_present = [
            row[0] for row in connection.execute(f"DESCRIBE FROM {samples}").fetchall()
        ]
        if missing := [name for name in features if name not in columns_present]:
            raise InputError(
                f"columns.json declares the feature {', '.join(missing)}, which the samples table "
                "lacks"
            )
        connection.execute(
            f"CREATE TEMP TABLE samples AS FROM {samples} WHERE prediction_time IS NOT NULL"
        )
        order = "SELECT sample_id, subject_id, split FROM samples ORDER BY sample_id"
        counts: dict[str, Any] = {
            "samples": write_parquet(connection, order, to / "samples.parquet")
        }
        declared = ", ".join(f'"{name}"' for name in features)
        tabular = f"SELECT sample_id, split, {declared} FROM samples ORDER BY sample_id"
        write_parquet(connection, tabular, to / "tabular.parquet")
        for name, (table, columns) in _RECORDS.items():
            if table in _OPTIONAL and table not in valid:
                continue
            records = _known_in_time(valid[table] / f"{table}.parquet")
            wanted = ", ".join(["sample_id", *columns])
            counts[name] = write_parquet(
                connection,
                f"SELECT {wanted} FROM ({records}) ORDER BY ALL",
                to / f"{name}.parquet",
                _GROUP,
            )
        if "embeddings" in valid:
            counts |= _write_given(connection, valid["embeddings"] / "embeddings.parquet", to)
    return counts


def _write_given(connection: duckdb.DuckDBPyConnection, file: Path, to: Path) -> dict[str, int]:
    """The vectors of each modality that has any. They have no time: the hospital computed them as
    of the prediction.
    """
    vectors = f"read_parquet({quote_literal(file)}) JOIN samples USING (sample_id)"
    modalities = connection.execute(
        f"SELECT DISTINCT modality FROM {vectors} ORDER BY modality"
    ).fetchall()
    return {
        f"given {modality}": write_parquet(
            connection,
            f"SELECT sample_id, vector FROM {vectors} WHERE modality = {quote_literal(modality)} "
            "ORDER BY sample_id",
            to / f"given_{modality}.parquet",
        )
        for (modality,) in modalities
    }


def _known_in_time(file: Path) -> str:
    """SQL: the records of a table that were known at the prediction time, with sample_id and hours
    (0 or less).
    """
    return f"""
        SELECT record.*, samples.sample_id,
            date_diff('microsecond', samples.prediction_time, record.time) / 3600e6 AS hours
        FROM read_parquet({quote_literal(file)}) record JOIN samples USING (stay_id)
        WHERE record.time <= samples.prediction_time
            AND record.available_time <= samples.prediction_time"""
