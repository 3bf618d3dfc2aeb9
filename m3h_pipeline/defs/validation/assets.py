"""Validation: each canonical table against its contract; good rows kept, wrong rows quarantined with a reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.contracts import CheckResult, check_descriptions
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, TABLES, Workspace, materialized
from m3h_pipeline.paths import contracts_folder
from m3h_pipeline.sources.base import SIGNALS
from m3h_pipeline.storage import code_version, content_hash

CODE = code_version("m3h_pipeline.contracts")
# What a table's step carries on to later steps, beside its rows.
_BESIDE = {"samples": ["columns.json"], "labels": ["tasks.json"]}


def _validated(table: str) -> dg.AssetsDefinition:
    name = f"valid_{table}"

    @dg.asset(
        name=name,
        deps=[table] if table == "samples" else [table, "valid_samples"],
        description=f"The rows of {table} that keep the contract data_contracts/{table}.odcs.yaml; the others are in "
        "quarantine, each with its reason.",
        group_name="validation", kinds={"polars", "greatexpectations"}, owners=OWNERS, code_version=CODE,
        partitions_def=snapshots,
        check_specs=[
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=True)
            for check, description in check_descriptions(table).items()
        ],
    )  # fmt: skip
    def validated(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        from m3h_pipeline.contracts import validate

        ingested = workspace.step(context, "ingested")
        samples = None if table == "samples" else workspace.step(context, "valid/samples")
        contracts = content_hash(contracts_folder())

        def build(to: Path) -> dict[str, Any]:
            for beside in _BESIDE.get(table, []):
                shutil.copy(ingested.folder / beside, to / beside)
            return validate(
                table,
                ingested.folder / f"{table}.parquet",
                to,
                samples=samples.folder / "samples.parquet" if samples else None,
                tasks=json.loads((ingested.folder / "tasks.json").read_text()),
                signals=json.loads(own.read_text()) if (own := ingested.folder / SIGNALS).exists() else [],
            )

        step = workspace.produce(context, f"valid/{table}", [CODE, contracts, ingested, samples], build)
        return materialized(
            step,
            checks=[_as_dagster(CheckResult(**check)) for check in step.info["checks"]],
            **{
                "dagster/row_count": step.info["kept"],
                "quarantined": sum(step.info["quarantined"].values()),
                "quarantined by rule": dg.MetadataValue.json(step.info["quarantined"]),
            },
        )

    return validated


def _as_dagster(check: CheckResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.severity == "error" else dg.AssetCheckSeverity.WARN,
        description=check.description,
        metadata=check.observed,
    )


validated_tables = [_validated(table) for table in TABLES]
