"""Ingestion: a hospital's own files become the canonical tables, with a lineage that accounts for
every row.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from m3h_pipeline import config as configuration
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, clearly, columns_of, materialized
from m3h_pipeline.erasure.forgetting import finish_erasure
from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.erasure.tables import leave_out
from m3h_pipeline.jobs.encoders import check_encoders
from m3h_pipeline.sources import extract
from m3h_pipeline.sources.snapshot_label import check_label
from m3h_pipeline.state.lineage import find_unaccounted
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.steps import Step, code_version, hash_folder

CODE = code_version(
    "m3h_pipeline.sources",
    "m3h_pipeline.state.database",
    "m3h_pipeline.state.sql",
    "m3h_pipeline.sources.tasks_file",
    "m3h_pipeline.files.yaml_file",
    "m3h_pipeline.sources.columns",
)
DESCRIPTIONS = {
    "samples": (
        "One row a hospital stay: who, when, the prediction time, the split (by subject), and the "
        "declared features and audit columns. The tabular modality."
    ),
    "events": (
        "Vital signs, labs and procedures as they were taken and as they became known. The "
        "time-series modality."
    ),
    "notes": "Clinical notes with the time when they were filed. The language modality.",
    "images": "Chest images with the time when they were taken. The vision modality.",
    "embeddings": (
        "Vectors that the hospital computed itself, which take the place of the encoder of their "
        "modality; most hospitals have none."
    ),
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
            metadata=columns_of(name),
        )
        for name, description in DESCRIPTIONS.items()
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "lineage",
            asset=name,
            blocking=True,
            description="Every row that was read is accounted for: kept, or out of scope with the reason.",
        )
        for name in DESCRIPTIONS
    ],
    partitions_def=snapshots,
    name="ingest",
    pool="duckdb_write",
)
def ingest(context: dg.AssetExecutionContext, workspace: Workspace):
    """Read the source into the canonical tables."""
    config = workspace.config
    source = workspace.source
    finish_erasure(workspace.root)
    with clearly():
        check_label(workspace.root, context.partition_key, source)
        # Elsewhere other paths and packages may be there than here.
        if config.launcher.kind == "local":
            check_encoders(config.embedding)
    fingerprint = source.fingerprint()
    settings = configuration.settings(config, source)
    # How much memory and disk the work may take decides nothing.
    decides = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("memory_limit", "spill")
    }

    def build(to: Path) -> dict[str, Any]:
        facts = extract(source, to, settings)
        left_out = leave_out(to, Forgotten.load(workspace.root))
        return {**facts, "fingerprint": fingerprint, "rows of forgotten patients": left_out}

    step = workspace.produce(
        context, "ingested", [CODE, fingerprint, decides, hash_folder(contracts_folder())], build
    )
    lineage = pl.read_parquet(step.folder / "lineage.parquet")
    for name in DESCRIPTIONS:
        mine = lineage.filter(pl.col("table") == name)
        rows = pl.scan_parquet(step.folder / f"{name}.parquet").select(pl.len()).collect().item()
        yield materialized(
            step,
            {"dagster/row_count": rows, "lineage": dg.MetadataValue.md(_as_markdown(mine))},
            asset_key=name,
            checks=[_accounted(step, name, mine)],
        )


def _accounted(step: Step, table: str, lineage: pl.DataFrame) -> dg.AssetCheckResult:
    """Whether the lineage of a table adds up, as its files lie there now."""
    problems = find_unaccounted(step.folder, table, step.info.get("rows read", {}))
    outcomes = dict(
        lineage.group_by("outcome").agg(pl.col("rows").sum()).sort("outcome").iter_rows()
    )
    words = (
        ", ".join(f"{rows:,} {outcome.replace('_', ' ')}" for outcome, rows in outcomes.items())
        or "no such files"
    )
    return dg.AssetCheckResult(
        asset_key=table,
        check_name="lineage",
        passed=not problems,
        description=f"{lineage['rows'].sum():,} rows read: {words}." if not problems else
        f"The rows do not add up: {'; '.join(problems)}. This is a mistake in the source's code, "
        "not in the data: report it.",
        metadata={"rows read": int(lineage["rows"].sum()), **outcomes},
    )  # fmt: skip


def _as_markdown(lineage: pl.DataFrame) -> str:
    if lineage.is_empty():
        return "no such files in this hospital"
    lines = ["| file | outcome | reason | rows |", "|---|---|---|---:|"]
    lines += [
        f"| {file} | {outcome} | {reason or ''} | {rows:,} |"
        for file, outcome, reason, rows in lineage.select(
            "file", "outcome", "reason", "rows"
        ).iter_rows()
    ]
    return "\n".join(lines)
