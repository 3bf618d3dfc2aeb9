"""Scoring: the champion's scores of the snapshot's samples, and what has changed since it was
trained.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.contracts.checks import NOT_JUDGED, PASSED, WARNED, is_not_judged
from m3h_pipeline.defs.inputs import ALL_INPUTS
from m3h_pipeline.defs.io_manager import shared_step
from m3h_pipeline.defs.metadata import OWNERS, mlflow_link, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.errors import InputError
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import explain_missing_approval, find_approval
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.layout import valid_folder
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.steps import Step, code_version

CODE = code_version(
    "m3h_pipeline.scoring.scores",
    "m3h_pipeline.features.served",
    "m3h_pipeline.registry.approval",
    "m3h_pipeline.registry.digests",
    "m3h_pipeline.jobs.score",
)
MONITORING_CODE = code_version(
    "m3h_pipeline.scoring.monitoring",
    "m3h_pipeline.features.items",
    "m3h_pipeline.evaluation.scores",
    "m3h_core.metrics",
    "m3h_core.data.silhouette",
    "m3h_core.calibration",
    "m3h_core.grouped",
)
_SHARED: dict[str, Any] = {"group_name": "scoring", "owners": OWNERS, "partitions_def": snapshots}
_CHECKS = {
    "inputs": (
        "Features are distributed among new samples as among those that the champion learned from."
    ),
    "missingness": "Features are missing as often among new samples.",
    "scores": (
        "The champion's scores of new samples are distributed as those of its own held-out samples."
    ),
    "performance": (
        "On labels that have arrived since, the champion is as good as at its registration, and "
        "its sets and intervals hold the truth as often as stated."
    ),
}
_APPLIES = "champion_applies"


class NotApplicable(Exception):
    """The version can't be applied to these samples, and why."""


class ScoringConfig(dg.Config):
    """Which version scores whom: the one with the alias unless a number is given; everyone, or as
    `to_score` says.
    """

    alias: str = "champion"
    version: str = ""
    everyone: bool = False


@dg.asset(
    ins=ALL_INPUTS,
    kinds={"mlflow", "duckdb"},
    code_version=CODE,
    pool="gpu",
    check_specs=[
        dg.AssetCheckSpec(
            _APPLIES,
            asset="scores",
            description="The champion, where there is one, could be applied.",
        )
    ],
    description=(
        "The champion's calibrated scores, sets and intervals for those still in hospital and "
        "those it has not seen, as a Parquet file and a DuckDB table. Empty as long as there is "
        "no champion."
    ),
    **_SHARED,
)
def scores(
    context: dg.AssetExecutionContext,
    config: ScoringConfig,
    workspace: Workspace,
    launcher: JobLauncher,
    valid_samples: Step,
    **by_modality: Step,
) -> dg.MaterializeResult:
    """Score the snapshot's samples."""
    from m3h_pipeline.registry.tags import CHAMPION
    from m3h_pipeline.registry.versions import find_version

    inputs = shared_step(by_modality)
    is_asked = bool(config.version) or config.alias != CHAMPION
    workspace.connect()
    try:
        version = find_version(config.alias, config.version)
    except InputError as error:
        if is_asked:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        return _write_none(context, workspace, str(error), applies=True)
    approved = find_approval(workspace.root, version.version)
    if approved is None and not is_asked:
        return _write_none(
            context, workspace, explain_missing_approval(version.version), applies=False
        )
    learned = _find_cohort(workspace, version.snapshot, version.cohort)
    # The demo lies in the past: nobody is still in hospital.
    everyone = config.everyone or workspace.config.source.name == "demo"
    job = {
        "mlflow": {"uri": workspace.mlflow_uri, "artifacts": str(workspace.mlflow_artifacts)},
        "version": version.version,
        "approved": approved,
        "snapshot": context.partition_key,
        "inputs": str(inputs.folder),
        "samples": str(valid_samples.folder / "samples.parquet"),
        "learned": _samples_beside(learned),
        "everyone": everyone,
        "cache": str(workspace.embedding_cache),
    }
    decided_by: list[object] = [
        CODE,
        version.version,
        approved["digest"] if approved else None,
        version.training,
        learned,
        everyone,
        inputs,
        valid_samples,
    ]

    def build(to: Path) -> dict[str, Any]:
        try:
            return launcher.run(context, "score", job, to)
        except InputError as error:
            if is_asked:
                raise
            raise NotApplicable(str(error)) from error

    # What nobody approved lies where nobody takes it for the champion's scores.
    name = "scores" if approved else f"{scoring.TRIAL}/version-{version.version}"
    try:
        step = workspace.produce(context, name, decided_by, build)
    except NotApplicable as error:
        # No reason to keep the rest of the night from people.
        return _write_none(context, workspace, str(error), applies=False)
    if approved:
        with lock_shared(workspace.root):
            scoring.publish_scores(workspace.root, step.folder / scoring.FILE)
    elif workspace.find_step(context.partition_key, "scores") is None:
        # What comes after finds a night without scores.
        _write_none(context, workspace, f"version {version.version} is on trial", applies=True)
    card = mlflow_link(workspace.root, tracking.get_version_route(version.version))
    return to_materialization(
        step,
        {"model card": card, "approved": bool(approved)},
        step.info,
        checks=[_check_applies(True, f"version {version.version} was applied")],
    )


@dg.asset(
    ins=ALL_INPUTS,
    kinds={"scipy"},
    code_version=MONITORING_CODE,
    check_specs=[
        dg.AssetCheckSpec(check, asset="monitoring", description=description)
        for check, description in _CHECKS.items()
    ],
    description=(
        "Drift: whether inputs, what is missing, scores and, where labels have arrived, "
        "performance are as they were when the champion was trained. One check each; the report "
        "shows all comparisons."
    ),
    **_SHARED,
)
def monitoring(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    scores: Step,
    valid_labels: Step,
    **by_modality: Step,
) -> dg.MaterializeResult:
    """Compare the samples that are new to the champion with its reference."""
    inputs = shared_step(by_modality)
    config = workspace.config
    version = scores.info.get("model_version")
    learned = _find_champion_cohort(workspace, version) if version else None

    def build(to: Path) -> dict[str, Any]:
        from m3h_pipeline.scoring.monitoring.night import monitor
        from m3h_pipeline.scoring.monitoring.verdicts import write_verdicts

        record = monitor(
            inputs.folder,
            scores.folder,
            valid_labels.folder,
            learned.folder if learned else None,
            config.monitoring,
            to,
            config.training.bootstrap,
        )
        verdicts = write_verdicts(record)
        return {"checks": {check: list(verdict) for check, verdict in verdicts.items()}}

    settings = config.monitoring.model_dump() | {"bootstrap": config.training.bootstrap}
    decided_by: list[object] = [
        MONITORING_CODE,
        settings,
        inputs,
        scores,
        valid_labels,
        learned,
    ]
    step = workspace.produce(context, "monitoring", decided_by, build)
    checks = [
        dg.AssetCheckResult(
            check_name=check,
            passed=passed,
            description=text,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"state": _state(passed, text)},
        )
        for check, (passed, text) in step.info["checks"].items()
    ]
    changes = _largest_changes(read_json(step.folder / "monitoring.json"))
    metadata = {"champion": version or "none", "what changed most": dg.MetadataValue.md(changes)}
    return to_materialization(step, metadata, checks=checks)


def _state(passed: bool, text: str) -> str:
    if is_not_judged(text):
        return NOT_JUDGED
    return PASSED if passed else WARNED


def _largest_changes(record: Mapping[str, Any], n_rows: int = 10) -> str:
    """The comparisons with the largest distances, as a table.

    >>> age = {"name": "age", "distance": 0.31, "changed": True}
    >>> print(_largest_changes({"inputs": [age], "missing": [], "scores": [], "reason": None}))
    | feature or task | what | distance | changed |
    |---|---|---:|---|
    | age | inputs | 0.310 | yes |
    """
    compared = [
        (what, row)
        for what in ("inputs", "missing", "scores")
        for row in record[what]
        if row["distance"]
    ]
    if not compared:
        return record["reason"] or "nothing was compared"
    compared.sort(key=lambda pair: -pair[1]["distance"])
    lines = ["| feature or task | what | distance | changed |", "|---|---|---:|---|"]
    for what, row in compared[:n_rows]:
        changed = "yes" if row["changed"] else "no"
        lines.append(f"| {row['name']} | {what} | {row['distance']:.3f} | {changed} |")
    return "\n".join(lines)


def _write_none(
    context: dg.AssetExecutionContext, workspace: Workspace, reason: str, *, applies: bool
) -> dg.MaterializeResult:
    """A night without scores; ``applies``: not for a champion that can't be applied."""
    problem = None if applies else reason

    def build(to: Path) -> dict[str, Any]:
        scoring.write_scores([], to, version=None, snapshot=context.partition_key)
        return {"model_version": None, "samples": 0, "problem": problem}

    context.log.log("INFO" if applies else "ERROR", f"no scores: {reason}")
    step = workspace.produce(context, "scores", [CODE, None, problem], build)
    return to_materialization(
        step, {"champion": "none", "note": reason}, checks=[_check_applies(applies, reason)]
    )


def _check_applies(passed: bool, text: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=_APPLIES, passed=passed, description=text)


def _find_champion_cohort(workspace: Workspace, version: str) -> Step | None:
    from m3h_pipeline.registry.versions import list_versions

    workspace.connect()
    for candidate in list_versions():
        if candidate.version == version:
            return _find_cohort(workspace, candidate.snapshot, candidate.cohort)
    return None


def _find_cohort(workspace: Workspace, snapshot: str, cohort: str) -> Step | None:
    """The cohort that a version learned from, as long as it is there as it was then."""
    step = workspace.find_step(snapshot, "cohort")
    return step if step and step.version == cohort else None


def _samples_beside(cohort: Step | None) -> str | None:
    """The validated samples that a version learned from."""
    if cohort is None:
        return None
    return str(valid_folder(cohort.folder.parent, "samples") / "samples.parquet")
