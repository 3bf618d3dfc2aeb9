"""Ingestion: a hospital's own files become the canonical tables, with a lineage that accounts for
every row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from m3h_pipeline import config as configuration
from m3h_pipeline.defs.failures import raise_as_failure
from m3h_pipeline.defs.metadata import OWNERS, table_schema, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.erasure.forgetting import finish_erasure
from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.erasure.tables import leave_out
from m3h_pipeline.jobs.encoders import check_encoders
from m3h_pipeline.sources import extract
from m3h_pipeline.sources.snapshot_label import check_label
from m3h_pipeline.state.layout import INGESTED
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
    "codes": (
        "Sets of codes of the stays, such as earlier diagnoses, drugs and cultures, each with the "
        "time when it was known. Part of the tabular modality."
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
            metadata=table_schema(name),
        )
        for name, description in DESCRIPTIONS.items()
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "lineage",
            asset=name,
            blocking=True,
            description=(
                "Every row that was read is accounted for: kept, or out of scope with the reason."
            ),
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
    with raise_as_failure():
        check_label(workspace.root, context.partition_key, source)
        # Elsewhere other paths and packages may be there than here.
        if config.launcher.kind == "local":
            check_encoders(config.embedding)
    fingerprint = source.fingerprint()
    settings = configuration.build_settings(config, source)
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
        context, INGESTED, [CODE, fingerprint, decides, hash_folder(contracts_folder())], build
    )
    lineage = pl.read_parquet(step.folder / "lineage.parquet")
    for name in DESCRIPTIONS:
        table_lineage = lineage.filter(pl.col("table") == name)
        rows = pl.scan_parquet(step.folder / f"{name}.parquet").select(pl.len()).collect().item()
        yield to_materialization(
            step,
            {
                "dagster/row_count": rows,
                "lineage": dg.MetadataValue.md(_lineage_markdown(table_lineage)),
            },
            asset_key=name,
            checks=[_check_lineage(step, name, table_lineage)],
        )


def _check_lineage(step: Step, table: str, lineage: pl.DataFrame) -> dg.AssetCheckResult:
    """Whether the lineage of a table adds up, as its files lie there now."""
    problems = find_unaccounted(step.folder, table, step.info.get("rows read", {}))
    counts = lineage.group_by("outcome").agg(pl.col("rows").sum()).sort("outcome")
    outcomes = dict(counts.iter_rows())
    total = int(lineage["rows"].sum())
    return dg.AssetCheckResult(
        asset_key=table,
        check_name="lineage",
        passed=not problems,
        description=_describe_lineage(total, outcomes, problems),
        metadata={"rows read": total, **outcomes},
    )


def _describe_lineage(total: int, outcomes: Mapping[str, int], problems: Sequence[str]) -> str:
    if problems:
        return (
            f"The rows do not add up: {'; '.join(problems)}. This is a mistake in the source's "
            "code, not in the data: report it."
        )
    counts = [f"{rows:,} {outcome.replace('_', ' ')}" for outcome, rows in outcomes.items()]
    return f"{total:,} rows read: {', '.join(counts) or 'no such files'}."


def _lineage_markdown(lineage: pl.DataFrame) -> str:
    if lineage.is_empty():
        return "no such files in this hospital"
    columns = lineage.select("file", "outcome", "reason", "rows")
    rows = [
        f"| {file} | {outcome} | {reason or ''} | {rows:,} |"
        for file, outcome, reason, rows in columns.iter_rows()
    ]
    return "\n".join(["| file | outcome | reason | rows |", "|---|---|---|---:|", *rows])
