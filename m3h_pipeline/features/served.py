"""The as-of inputs as the registered model takes them: one row per sample, its records as lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import pandas as pd

# What m3h_pipeline/registry/serving.py puts out is of this format, and so says the model's
# metadata. Format 1 had neither calibration, sets, intervals, distances nor what a sample lacks;
# the model of format 2 was a network alone, without trees.
FORMAT = 3
# Samples at a time: bounds memory, for images come as bytes.
_BLOCK = 256
_RAW = {
    "codes": ("codes", ["code", "hours", "value"]),
    "timeseries": ("events", ["code", "hours", "value"]),
    "language": ("notes", ["hours", "text"]),
    "vision": ("images", ["hours", "view", "path"]),
}


def raw_inputs(inputs: Path, samples: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The as-of inputs of some samples as the registered model takes them, in their order, a block
    at a time.
    """
    for start in range(0, len(samples), _BLOCK):
        order = pl.DataFrame(
            {"sample_id": list(samples[start : start + _BLOCK])}, schema={"sample_id": pl.String}
        )
        tabular = _read_rows(inputs / "tabular.parquet", order).drop(
            "sample_id", "split", strict=False
        )
        numbers = [
            name for name, kind in tabular.schema.items() if kind.is_numeric() or kind == pl.Boolean
        ]
        frame = tabular.with_columns(pl.col(numbers).cast(pl.Float64)).to_pandas()
        for modality, (name, columns) in _RAW.items():
            if (inputs / f"{modality}.parquet").exists():
                frame[name] = _read_lists(inputs / f"{modality}.parquet", order, columns)
        for file in sorted(inputs.glob("given_*.parquet")):
            vectors = _read_rows(file, order)["vector"].to_list()
            frame[f"{file.stem.removeprefix('given_')}_vector"] = vectors
        yield frame


def _read_rows(file: Path, order: pl.DataFrame) -> pl.DataFrame:
    """The row of each sample in a file that has one a sample."""
    rows = (
        pl.scan_parquet(file)
        .filter(pl.col("sample_id").is_in(order["sample_id"].implode()))
        .collect()
    )
    return order.join(rows, on="sample_id", how="left", maintain_order="left")


def _read_lists(file: Path, order: pl.DataFrame, columns: list[str]) -> list[list[dict[str, Any]]]:
    rows = pl.scan_parquet(file).filter(pl.col("sample_id").is_in(order["sample_id"].implode()))
    records: dict[str, list[dict[str, Any]]] = {sample: [] for sample in order["sample_id"]}
    for sample, *values in rows.select("sample_id", *columns).collect().iter_rows():
        records[sample].append(_to_served(dict(zip(columns, values, strict=True))))
    return list(records.values())


def _to_served(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it comes to a server: an image by its bytes; no bytes, as any other wrong ones,
    can't be read.
    """
    if "path" in record:
        file = Path(record.pop("path"))
        record["content"] = file.read_bytes() if file.is_file() else b""
        record["view"] = record["view"] or ""
    return record
