"""Gather what the page shows, write it, and publish ``<out>/latest``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.cohort import SPLITS, Cohort
from m3h_pipeline.config import Config
from m3h_pipeline.reports import words
from m3h_pipeline.reports.page import ReportData, write_report
from m3h_pipeline.storage import Step, read_json, swap

_COPIED = {"quality": ["metrics.json", "predictions.parquet"], "tim": ["tim.json"]}


def write_page(
    config: Config,
    snapshot: str,
    steps: Mapping[str, Step],
    valid: Mapping[str, Step],
    embedded: Mapping[str, Step],
    to: Path,
) -> dict[str, Any]:
    """Write ``report.html`` and, beside it, all that ``<out>/latest`` holds."""
    for step, files in _COPIED.items():
        for file in files:
            shutil.copy(steps[step].folder / file, to / file)
    (to / "quarantine").mkdir()
    for table, step in valid.items():
        shutil.copy(step.folder / "quarantine.parquet", to / "quarantine" / f"{table}.parquet")
    for modality, step in embedded.items():
        if step.info.get("unreadable"):
            shutil.copy(step.folder / "quarantine.parquet", to / "quarantine" / f"{modality}_embedding.parquet")
    lineage = whole_lineage(steps["ingested"].folder, valid)
    lineage.write_parquet(to / "lineage.parquet")
    write_report(_report_data(config, snapshot, steps, valid, lineage), to / "report.html")
    return {"bytes": (to / "report.html").stat().st_size}


def whole_lineage(ingested: Path, valid: Mapping[str, Step]) -> pl.DataFrame:
    """The ingestion's lineage with quarantined rows taken out of the kept ones; it still sums to the rows read.

    Many rows make one label: a quarantined label counts only where it comes from one row of a file.
    """
    lineage = pl.read_parquet(ingested / "lineage.parquet")
    quarantined = pl.concat(
        pl.read_parquet(step.folder / "quarantine.parquet")
        .filter(pl.col("source_row").is_not_null())
        .group_by(pl.col("source_file").alias("file"), pl.col("rule").alias("reason"))
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .with_columns(pl.lit(table).alias("table"), pl.lit("quarantined").alias("outcome"))
        for table, step in valid.items()
    )
    hashes = lineage.select("table", "file", "sha256").unique()
    moved = quarantined.join(hashes, on=["table", "file"]).select(lineage.columns).sort("table", "file", "reason")
    lost = moved.group_by("table", "file").agg(pl.col("rows").sum().alias("lost"))
    kept = pl.col("outcome") == "kept"
    lineage = lineage.join(lost, on=["table", "file"], how="left", maintain_order="left").with_columns(
        pl.when(kept).then(pl.col("rows") - pl.col("lost").fill_null(0)).otherwise(pl.col("rows")).alias("rows")
    )
    return pl.concat([lineage.drop("lost"), moved.cast(dict(lineage.drop("lost").schema))])


def publish(out: Path, page: Path) -> Path:
    """Make ``<out>/latest`` a copy of the report's folder, whole or not at all."""
    partial = out / ".latest.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(page, partial, ignore=shutil.ignore_patterns("step.json", ".*"))
    swap(partial, out / "latest")
    return out / "latest"


def _report_data(
    config: Config, snapshot: str, steps: Mapping[str, Step], valid: Mapping[str, Step], lineage: pl.DataFrame
) -> ReportData:
    cohort = Cohort.load(steps["cohort"].folder)
    synthetic = config.source.name == "demo"
    version = steps["model_version"].info
    checks: list[Any] = [
        {"table": table, **{key: check[key] for key in ("name", "passed", "description")}}
        for table, step in valid.items()
        for check in step.info["checks"]
    ]
    rows: list[Any] = (
        lineage.group_by("table", "outcome", "reason", maintain_order=True).agg(pl.col("rows").sum()).to_dicts()
    )
    return {
        "title": "M3H: many tasks from many modalities",
        "source": "the demo hospital" if synthetic else config.source.name,
        "synthetic": synthetic,
        "snapshot": snapshot,
        "model": {"name": version["name"], "version": version["version"]},
        "cohort": {
            "samples": len(cohort),
            "subjects": len(set(cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids)),
            "splits": {name: len(cohort.rows(split)) for name, split in SPLITS.items()},
            "modalities": {name: int(present.sum()) for name, present in cohort.present.items()},
        },
        "lineage": rows,
        "checks": checks,
        "metrics": read_json(steps["quality"].folder / "metrics.json"),
        "tim": read_json(steps["tim"].folder / "tim.json"),
        "limits": _limits(config, cohort, synthetic),
    }


def _limits(config: Config, cohort: Cohort, synthetic: bool) -> list[str]:
    """What a reader must know before trusting a number."""
    limits = []
    if synthetic:
        limits.append("All data is synthetic: the scores say that the pipeline works, not how it does on patients.")
    if not config.embedding.vision_weights and cohort.present["vision"].any():
        limits.append(
            "The image encoder has no pretrained weights; it learnt from this hospital's training images alone. Name "
            "weights in m3h.toml (embedding.vision_weights) before judging what images add."
        )
    absent = [name for name, present in cohort.present.items() if not present.any()]
    if absent:
        limits.append(f"This hospital delivered no data for: {', '.join(absent)}.")
    limits += [
        f"The test split has {words.count(len(cohort.rows(SPLITS['test'])))} stays: intervals are wide, and with one "
        "interval a task some will exclude zero by chance.",
        "A diagnosis means that it was coded for the stay, not when it began: some were known at admission.",
        "One training run an arm: intervals come from resampling patients, not from repeated training.",
    ]
    return limits
