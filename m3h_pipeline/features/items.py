"""From the as-of input files to what an embedder takes, in the order of ``samples.parquet``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core.embedders import EventSequences

MODALITIES = ("tabular", "timeseries", "language", "vision")


def is_given(modality: str, inputs: Path) -> bool:
    """Whether the hospital gives this modality as vectors of its own."""
    return _given(modality, inputs).exists()


def _given(modality: str, inputs: Path) -> Path:
    return inputs / f"given_{modality}.parquet"


def modality_items(modality: str, inputs: Path) -> Any:
    """The items of every sample: see m3h_core.embedders for their form in each modality."""
    order = pl.read_parquet(inputs / "samples.parquet", columns=["sample_id"]).with_row_index("row")
    if is_given(modality, inputs):
        vectors = pl.read_parquet(_given(modality, inputs))
        frame = order.join(vectors, on="sample_id", how="left", maintain_order="left")
        return [None if vector is None else vector.to_numpy() for vector in frame["vector"]]
    frame = pl.read_parquet(inputs / f"{modality}.parquet")
    if modality == "tabular":
        frame = order.join(frame, on="sample_id", how="left", maintain_order="left")
        return {name: _column(frame[name]) for name in frame.columns if name not in ("row", "sample_id", "split")}
    frame = frame.join(order, on="sample_id", how="inner", maintain_order="left")
    if modality == "timeseries":
        return EventSequences(
            sample=frame["row"].cast(pl.Int64).to_numpy(),
            code=frame["code"].to_numpy(),
            hours=frame["hours"].to_numpy(),
            value=frame["value"].to_numpy(),
            n=len(order),
        )
    columns = {"language": ["hours", "text"], "vision": ["hours", "view", "path"]}[modality]
    items: list[list[tuple[Any, ...]]] = [[] for _ in range(len(order))]
    for row, *record in frame.select("row", *columns).iter_rows():
        items[row].append(tuple(record))
    return items


def take(items: Any, rows: np.ndarray) -> Any:
    """The items of some rows, in their order."""
    if isinstance(items, dict):
        return {name: values[rows] for name, values in items.items()}
    if isinstance(items, EventSequences):
        return items.take(rows)
    return [items[row] for row in rows]


def _column(values: pl.Series) -> np.ndarray:
    if values.dtype.is_numeric():
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.array(values.to_list(), dtype=object)
