"""What is watched of a sample for drift: columns, signals, and how much of the rest there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from m3h_core import TaskSpec
from m3h_core.embedders.tabular import CODES
from m3h_pipeline.features.items import MODALITIES, is_given
from m3h_pipeline.wording import MIN_GROUP_SIZE

# (feature, modality)
Key = tuple[str, str]


def observe(inputs: Path, samples: pl.Series) -> dict[Key, pl.Series]:
    """What is watched of some samples: {(feature, modality): a value each, null where it is
    missing}.

    Declared columns; how many codes of each kind; the latest value of each signal; how many events,
    notes and images, and how long the notes are.
    """
    observations: dict[Key, pl.Series] = {}
    for modality in MODALITIES:
        if is_given(modality, inputs):
            vectors = pl.scan_parquet(inputs / f"given_{modality}.parquet")
            table = vectors.select("sample_id", vector=pl.lit(1))
            observations |= _align(table, modality, samples)
    if not is_given("tabular", inputs):
        table = _scan(inputs, "tabular").drop("split")
        observations |= _align(table, "tabular", samples)
        observations |= _count_codes(inputs, samples)
    if not is_given("timeseries", inputs):
        counts = {"number of events": pl.len()}
        observations |= _aggregate(inputs, "timeseries", samples, counts)
        observations |= _latest_values(inputs, samples)
    if not is_given("language", inputs):
        characters = pl.col("text").str.len_chars().sum()
        counts = {"number of notes": pl.len(), "characters of notes": characters}
        observations |= _aggregate(inputs, "language", samples, counts)
    if not is_given("vision", inputs):
        counts = {"number of images": pl.len()}
        observations |= _aggregate(inputs, "vision", samples, counts)
    return observations


def _scan(inputs: Path, modality: str) -> pl.LazyFrame:
    return pl.scan_parquet(inputs / f"{modality}.parquet")


def _align(table: pl.LazyFrame, modality: str, samples: pl.Series) -> dict[Key, pl.Series]:
    """Each column of a table with a row a sample, in the order of ``samples``."""
    rows = table.filter(pl.col("sample_id").is_in(samples.implode())).collect()
    aligned = _join(samples, rows)
    return {
        (feature, modality): aligned[feature]
        for feature in aligned.columns
        if feature != "sample_id"
    }


def _join(samples: pl.Series, rows: pl.DataFrame) -> pl.DataFrame:
    order = pl.DataFrame({"sample_id": samples})
    return order.join(rows, on="sample_id", how="left", maintain_order="left")


def _aggregate(
    inputs: Path, modality: str, samples: pl.Series, counts: Mapping[str, pl.Expr]
) -> dict[Key, pl.Series]:
    table = _scan(inputs, modality).group_by("sample_id").agg(**counts)
    return _align(table, modality, samples)


def _count_codes(inputs: Path, samples: pl.Series) -> dict[Key, pl.Series]:
    """How many codes of each kind that enough samples have; snapshots of earlier versions have no
    such file.
    """
    if not (inputs / f"{CODES}.parquet").exists():
        return {}
    kind = pl.col("code").str.split("/").list.first().alias("kind")
    codes = _scan(inputs, CODES).filter(pl.col("sample_id").is_in(samples.implode()))
    counts = codes.group_by("sample_id", kind).len("count").collect()
    counted: dict[Key, pl.Series] = {}
    for name in counts["kind"].unique().sort():
        of_kind = counts.filter(pl.col("kind") == name).select("sample_id", "count")
        if len(of_kind) >= MIN_GROUP_SIZE:
            counted[f"number of {name}", "tabular"] = _join(samples, of_kind)["count"]
    return counted


def _latest_values(inputs: Path, samples: pl.Series) -> dict[Key, pl.Series]:
    """The latest value of each signal that enough samples have."""
    events = _scan(inputs, "timeseries")
    events = events.filter(pl.col("sample_id").is_in(samples.implode())).sort("hours", "value")
    latest = events.group_by("code", "sample_id").agg(pl.col("value").last()).collect()
    by_code = latest.partition_by("code", as_dict=True, include_key=False)
    return {
        (str(code[0]), "timeseries"): _join(samples, rows)["value"]
        for code, rows in sorted(by_code.items())
        if len(rows) >= MIN_GROUP_SIZE
    }


def to_one_score(task: TaskSpec, scores: np.ndarray) -> pl.Series:
    """A number a sample, or the likeliest class or cluster, from scores [n] or [n, C]."""
    if scores.ndim == 1:
        return pl.Series(scores)
    return pl.Series("class", np.array(task.class_names)[scores.argmax(1)])
