"""Why a run in this process failed, in one paragraph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline.errors.endings import explain, list_messages
from m3h_pipeline.state.layout import valid_folder
from m3h_pipeline.state.steps import read_step

if TYPE_CHECKING:
    import dagster as dg


def explain_failure(result: dg.ExecuteInProcessResult, snapshot: Path) -> str:
    """The first failure in one paragraph: blocking checks by their descriptions, else the step's
    own message.
    """
    failed_checks = _list_failed_checks(result)
    if failed_checks:
        return _explain_checks(failed_checks, snapshot)
    for event in result.all_events:
        if event.is_step_failure:
            return _explain_step(event)
    return "the run did not finish"


def _list_failed_checks(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    checks = [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    return [
        check
        for check in checks
        if check.blocking and check.severity.value == "ERROR" and not check.passed
    ]


def _explain_checks(checks: list[dg.AssetCheckEvaluation], snapshot: Path) -> str:
    lines = []
    tables = set()
    for check in checks:
        asset = check.asset_key.to_user_string()
        lines.append(f"{asset}: {check.check_name}: {check.description or 'failed'}")
        tables.add(asset.removeprefix("valid_"))
    lines += _list_quarantines(snapshot, sorted(tables))
    return (
        "a check failed, so nothing after it was computed and the earlier results stand\n  "
        + "\n  ".join(lines)
    )


def _explain_step(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data is not None:
        return str(data.user_failure_data.description)
    # What led to the error, whatever Python was at work on beside; the cause alone says it best.
    explanation = explain("\n".join(list_messages(data.error)))
    if explanation is not None:
        return explanation
    causes = list_messages(data.error, with_context=False)
    return f"{event.step_key}: {causes[-1] if causes else 'failed'}"


def _list_quarantines(snapshot: Path, tables: list[str]) -> list[str]:
    """Where the rows lie that a failed check speaks of; ``latest/`` is of the last run that was
    published.
    """
    lines = []
    for table in tables:
        folder = valid_folder(snapshot, table)
        step = read_step(folder)
        if step and any(step.info["quarantined"].values()):
            lines.append(f"rows in quarantine, with their reasons: {folder / 'quarantine.parquet'}")
    return lines
