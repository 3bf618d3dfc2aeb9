"""Validation: each canonical table against its contract; good rows kept, wrong rows quarantined
with a reason.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.config import Config
from m3h_pipeline.contracts.checks import CheckResult, count_states, format_states, get_state
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.validation import describe_checks
from m3h_pipeline.defs.metadata import OWNERS, table_schema, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.sources.base import SIGNALS
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.layout import INGESTED
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.snapshots import snapshot_labels
from m3h_pipeline.state.steps import Step, code_version, hash_folder

CODE = code_version("m3h_pipeline.contracts")
# What a table's step carries on to later steps, beside its rows.
_BESIDE = {"samples": ["columns.json"], "labels": ["tasks.json"]}


def _validated(table: str) -> dg.AssetsDefinition:
    name = f"valid_{table}"
    ins = {"ingested": dg.AssetIn(table)}
    if table != "samples":
        ins["valid_samples"] = dg.AssetIn()

    @dg.asset(
        name=name,
        ins=ins,
        description=(
            f"The rows of {table} that keep the contract data_contracts/{table}.odcs.yaml; the "
            "others are in quarantine, each with its reason."
        ),
        group_name="validation",
        kinds={"polars", "greatexpectations"},
        owners=OWNERS,
        code_version=CODE,
        partitions_def=snapshots,
        metadata=table_schema(table),
        check_specs=[
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=True)
            for check, description in describe_checks(table).items()
        ],
    )
    def validated(
        context: dg.AssetExecutionContext, workspace: Workspace, ingested: Step, **others: Step
    ) -> dg.MaterializeResult:
        from m3h_pipeline.contracts.context import ValidationContext
        from m3h_pipeline.contracts.validation import validate

        snapshot = context.partition_key
        valid_samples = others.get("valid_samples")
        previous = _last_passed(workspace, snapshot, table)
        config = workspace.config
        is_live = _is_live(config, workspace)
        accepted = accepted_checks(config.validation.accepted, snapshot, table)
        entries = _accepted_entries(config.validation.accepted, table)
        covered = _read_covered(workspace, ingested, previous) if table == "events" else frozenset()
        validation_context = ValidationContext(
            snapshot, _label_and_file(previous, table), is_live, accepted, entries, covered
        )

        def build(to: Path) -> dict[str, Any]:
            for beside in _BESIDE.get(table, []):
                shutil.copy(ingested.folder / beside, to / beside)
            return validate(
                table,
                ingested.folder / f"{table}.parquet",
                to,
                samples=valid_samples.folder / "samples.parquet" if valid_samples else None,
                tasks=read_tasks(ingested.folder),
                signals=_read_signals(ingested),
                declared=Columns.load(ingested.folder).declared,
                unread=ingested.info.get("columns not read", {}).get(table, []),
                context=validation_context,
            )

        decided_by: list[object] = [
            CODE,
            hash_folder(contracts_folder()),
            ingested,
            valid_samples,
            previous,
            is_live,
            sorted(accepted),
            entries,
        ]
        step = workspace.produce(context, name, decided_by, build)
        page = _write_page(workspace, snapshot)
        return to_materialization(
            step,
            {
                "dagster/row_count": step.info["kept"],
                "quarantined": sum(step.info["quarantined"].values()),
                "quarantined by rule": dg.MetadataValue.json(step.info["quarantined"]),
                "checks": format_states(count_states(step.info["checks"])),
                "all checks": dg.MetadataValue.path(str(page)),
            },
            checks=[_to_dagster(CheckResult(**check)) for check in step.info["checks"]],
        )

    return validated


def _is_live(config: Config, workspace: Workspace) -> bool:
    freshness = config.validation.freshness
    return freshness == "on" or (freshness == "auto" and workspace.source.is_live)


def _read_signals(ingested: Step) -> list[Any]:
    file = ingested.folder / SIGNALS
    return json.loads(file.read_text()) if file.exists() else []


def _read_covered(workspace: Workspace, ingested: Step, previous: Step | None) -> frozenset[str]:
    """Codes that coverage chose in this snapshot or in the last one."""
    signals = _read_signals(ingested)
    last = previous and workspace.find_step(previous.folder.parent.name, INGESTED)
    if last:
        signals = signals + _read_signals(last)
    return frozenset(signal["code"] for signal in signals if signal.get("covered"))


def _write_page(workspace: Workspace, snapshot: str) -> Path:
    """The snapshot's page of checks, written anew with each table: it must be there when a later
    one fails.
    """
    from m3h_pipeline.reports.validation import write_validation

    valid: dict[str, Step] = {}
    for table in TABLES:
        step = workspace.find_step(snapshot, f"valid_{table}")
        if step is not None:
            valid[table] = step
    return write_validation(snapshot, valid, workspace.root / "snapshots" / snapshot)


def _last_passed(workspace: Workspace, snapshot: str, table: str) -> Step | None:
    """The table's validation in the last snapshot before this one in which it passed."""
    earlier = [label for label in snapshot_labels(workspace.root) if label < snapshot]
    for label in reversed(earlier):
        step = workspace.find_step(label, f"valid_{table}")
        if step is not None and _passed(step):
            return step
    return None


def _passed(step: Step) -> bool:
    return all(check["passed"] or check["severity"] == "warning" for check in step.info["checks"])


def _label_and_file(step: Step | None, table: str) -> tuple[str, Path] | None:
    if step is None:
        return None
    return step.folder.parent.name, step.folder / f"{table}.parquet"


def _accepted_entries(entries: Sequence[str], table: str) -> tuple[str, ...]:
    """What a person accepted of a table, in any snapshot."""
    return tuple(sorted(entry for entry in entries if entry.split()[0] == table))


def accepted_checks(entries: list[str], snapshot: str, table: str) -> frozenset[str]:
    """Checks of a table that m3h.toml accepts for a snapshot.

    >>> entries = ["2026-02-01 events distribution", "2026-02-01 notes schema"]
    >>> sorted(accepted_checks(entries, "2026-02-01", "events"))
    ['distribution']
    """
    words = [entry.split() for entry in entries]
    return frozenset(word[2] for word in words if len(word) == 3 and word[:2] == [snapshot, table])


def _to_dagster(check: CheckResult) -> dg.AssetCheckResult:
    severity = "ERROR" if check.severity == "error" else "WARN"
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity[severity],
        description=check.description,
        metadata={"state": get_state(asdict(check)), **check.observed},
    )


validated_tables = [_validated(table) for table in TABLES]
