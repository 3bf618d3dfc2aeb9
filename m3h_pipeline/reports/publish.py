"""Gather what the page shows, write it, and publish ``<out>/latest``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core import Cohort
from m3h_pipeline.config import Config
from m3h_pipeline.reports.page import write_report
from m3h_pipeline.storage import Step, swap

_FILES = {"quality": ["metrics.json", "predictions.parquet"], "tim": ["tim.json"]}


def write_page(
    config: Config, snapshot: str, steps: Mapping[str, Step], valid: Mapping[str, Step], to: Path
) -> dict[str, Any]:
    """Write ``report.html`` and, beside it, all that ``<out>/latest`` holds."""
    for step, files in _FILES.items():
        for file in files:
            shutil.copy(steps[step].folder / file, to / file)
    (to / "quarantine").mkdir()
    for table, step in valid.items():
        target = to / "quarantine" / f"{table}.parquet"
        shutil.copy(step.folder / "quarantine.parquet", target)
        target.chmod(0o600)
    whole_lineage(steps["ingested"].folder, valid).write_parquet(to / "lineage.parquet")
    write_report(_report_data(config, snapshot, steps, valid), to / "report.html")
    return {"bytes": (to / "report.html").stat().st_size}


def whole_lineage(ingested: Path, valid: Mapping[str, Step]) -> pl.DataFrame:
    """The ingestion's lineage with quarantined rows told apart from kept ones; sums to the rows read."""
    lineage = pl.read_parquet(ingested / "lineage.parquet")
    parts = [lineage]
    for table, step in valid.items():
        quarantined = (
            pl.read_parquet(step.folder / "quarantine.parquet")
            .group_by(pl.col("source_file").alias("file"), pl.col("rule").alias("reason"))
            .agg(pl.len().cast(pl.Int64).alias("rows"))
            .sort("file", "reason")
            .join(lineage.select("file", "sha256").unique(), on="file", how="inner")
        )
        moved = quarantined.with_columns(pl.lit(table).alias("table"), pl.lit("quarantined").alias("outcome"))
        parts.append(moved.select(lineage.columns).cast(dict(lineage.schema)))
    return pl.concat(parts)


def publish(out: Path, page: Path) -> Path:
    """Make ``<out>/latest`` a copy of the report's folder, whole or not at all."""
    latest = out / "latest"
    partial = out / ".latest.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(page, partial, ignore=shutil.ignore_patterns("step.json", ".*"))
    swap(partial, latest)
    return latest


def _report_data(config: Config, snapshot: str, steps: Mapping[str, Step], valid: Mapping[str, Step]) -> dict[str, Any]:
    cohort = Cohort.load(steps["cohort"].folder)
    return {}


__all__ = ["os"]
