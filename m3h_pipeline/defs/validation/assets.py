"""Validation: each canonical table against its contract; good rows kept, wrong rows quarantined
with a reason.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.contracts import TABLES, CheckResult, check_descriptions
from m3h_pipeline.contracts.check_states import in_words, state_of, tally
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, columns_of, materialized
from m3h_pipeline.sources.base import SIGNALS
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.snapshots import snapshot_labels
from m3h_pipeline.state.steps import Step, code_version, hash_folder, read_step

CODE = code_version("m3h_pipeline.contracts")
# What a table's step carries on to later steps, beside its rows.
_BESIDE = {"samples": ["columns.json"], "labels": ["tasks.json"]}


def _validated(table: str) -> dg.AssetsDefinition:
    name = f"valid_{table}"

    @dg.asset(
        name=name,
        deps=[table] if table == "samples" else [table, "valid_samples"],
        description=(
            f"The rows of {table} that keep the contract data_contracts/{table}.odcs.yaml; the "
            "others are in quarantine, each with its reason."
        ),
        group_name="validation", kinds={"polars", "greatexpectations"}, owners=OWNERS, code_version=CODE,
        partitions_def=snapshots, metadata=columns_of(table),
        check_specs=[
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=True)
            for check, description in check_descriptions(table).items()
        ],
    )  # fmt: skip
    def validated(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        from m3h_pipeline.contracts import validate
        from m3h_pipeline.contracts.changes import Occasion

        ingested = workspace.step(context, "ingested")
        samples = None if table == "samples" else workspace.step(context, "valid/samples")
        contracts = hash_folder(contracts_folder())
        previous = _last_good(workspace.root, context.partition_key, table)
        last = (
            (previous.folder.parent.parent.name, previous.folder / f"{table}.parquet")
            if previous
            else None
        )
        config = workspace.config.validation
        is_live = config.freshness == "on" or (
            config.freshness == "auto" and workspace.source.is_live
        )
        accepted = accepted_checks(config.accepted, context.partition_key, table)
        entries = tuple(sorted(entry for entry in config.accepted if entry.split()[0] == table))

        def build(to: Path) -> dict[str, Any]:
            for beside in _BESIDE.get(table, []):
                shutil.copy(ingested.folder / beside, to / beside)
            return validate(
                table,
                ingested.folder / f"{table}.parquet",
                to,
                samples=samples.folder / "samples.parquet" if samples else None,
                tasks=json.loads((ingested.folder / "tasks.json").read_text()),
                signals=json.loads(own.read_text())
                if (own := ingested.folder / SIGNALS).exists()
                else [],
                declared=Columns.load(ingested.folder).declared,
                unread=ingested.info.get("columns not read", {}).get(table, []),
                occasion=Occasion(context.partition_key, last, is_live, accepted, entries),
            )

        decided_by: list[object] = [
            CODE,
            contracts,
            ingested,
            samples,
            previous,
            is_live,
            sorted(accepted),
            entries,
        ]
        step = workspace.produce(context, f"valid/{table}", decided_by, build)
        page = _page(workspace.root / "snapshots" / context.partition_key)
        return materialized(
            step,
            {
                "dagster/row_count": step.info["kept"],
                "quarantined": sum(step.info["quarantined"].values()),
                "quarantined by rule": dg.MetadataValue.json(step.info["quarantined"]),
                "checks": in_words(tally(step.info["checks"])),
                "all checks": dg.MetadataValue.path(str(page)),
            },
            checks=[_as_dagster(CheckResult(**check)) for check in step.info["checks"]],
        )

    return validated


def _page(snapshot: Path) -> Path:
    """The snapshot's page of checks, written anew with each table: it must be there when a later
    one fails.
    """
    from m3h_pipeline.reports.validation import write_validation

    valid = {table: step for table in TABLES if (step := read_step(snapshot / "valid" / table))}
    return write_validation(snapshot.name, valid, snapshot)


def _last_good(root: Path, snapshot: str, table: str) -> Step | None:
    """The table's validation in the last snapshot before this one in which it passed."""
    for label in reversed([label for label in snapshot_labels(root) if label < snapshot]):
        step = read_step(root / "snapshots" / label / "valid" / table)
        if step and all(
            check["passed"] or check["severity"] == "warning" for check in step.info["checks"]
        ):
            return step
    return None


def accepted_checks(entries: list[str], snapshot: str, table: str) -> frozenset[str]:
    """Checks of a table that m3h.toml accepts for a snapshot.

    >>> sorted(accepted_checks(["2026-02-01 events distribution", "2026-02-01 notes schema"], "2026-02-01", "events"))
    ['distribution']
    """
    words = [entry.split() for entry in entries]
    return frozenset(word[2] for word in words if len(word) == 3 and word[:2] == [snapshot, table])


def _as_dagster(check: CheckResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR
        if check.severity == "error"
        else dg.AssetCheckSeverity.WARN,
        description=check.description,
        metadata={"state": state_of(asdict(check)), **check.observed},
    )


validated_tables = [_validated(table) for table in TABLES]
