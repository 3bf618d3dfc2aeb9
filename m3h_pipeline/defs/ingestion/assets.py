"""Ingestion: a hospital's own files become the canonical tables, with a lineage that accounts for every row."""

from dataclasses import asdict

import dagster as dg
import polars as pl

from m3h_pipeline import config as configuration
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized
from m3h_pipeline.paths import contracts_folder
from m3h_pipeline.sources import Settings, extract
from m3h_pipeline.storage import code_version, content_hash

CODE = code_version("m3h_pipeline.sources", "m3h_pipeline.database", "m3h_pipeline.tasks_file", "m3h_pipeline.columns")
DESCRIPTIONS = {
    "samples": "One row a hospital stay: who, when, the prediction time, the split (by subject), and the declared "
    "features and audit columns. The tabular modality.",
    "events": "Vital signs, labs and procedures as they were taken and as they became known. The time-series modality.",
    "notes": "Clinical notes with the time when they were filed. The language modality.",
    "images": "Chest images with the time when they were taken. The vision modality.",
    "embeddings": "Vectors that the hospital computed itself, which take the place of the encoder of their modality; "
    "most hospitals have none.",
    "labels": "What is known of each task for each stay; no row means not labelled, never 0.",
}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            description=description,
            group_name="ingestion",
            kinds={"duckdb", "polars"},
            owners=OWNERS,
            code_version=CODE,
            partitions_def=snapshots,
        )
        for name, description in DESCRIPTIONS.items()
    ],
    partitions_def=snapshots,
    name="ingest",
    pool="duckdb_write",
)
def ingest(context: dg.AssetExecutionContext, workspace: Workspace):
    """Read the source into the canonical tables."""
    config = workspace.config
    source = configuration.source(config, workspace.root)
    settings = Settings(
        prediction_hours=config.cohort.prediction_hours,
        timezone=config.cohort.timezone,
        tasks=source.tasks,
        memory_limit=config.cohort.memory_limit,
    )
    step = workspace.produce(
        context,
        "ingested",
        [CODE, source.fingerprint(), asdict(settings), content_hash(contracts_folder())],
        lambda to: extract(source, to, settings),
    )
    lineage = pl.read_parquet(step.folder / "lineage.parquet")
    for name in DESCRIPTIONS:
        mine = lineage.filter(pl.col("table") == name)
        rows = pl.scan_parquet(step.folder / f"{name}.parquet").select(pl.len()).collect().item()
        yield materialized(
            step,
            name,
            **{"dagster/row_count": rows, "lineage": dg.MetadataValue.md(_as_markdown(mine))},
        )


def _as_markdown(lineage: pl.DataFrame) -> str:
    if lineage.is_empty():
        return "no such files in this hospital"
    lines = ["| file | outcome | reason | rows |", "|---|---|---|---:|"]
    lines += [
        f"| {file} | {outcome} | {reason or ''} | {rows:,} |"
        for file, outcome, reason, rows in lineage.select("file", "outcome", "reason", "rows").iter_rows()
    ]
    return "\n".join(lines)
