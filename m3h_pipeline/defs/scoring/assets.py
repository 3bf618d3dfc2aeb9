"""Scoring: the champion's scores of the snapshot's samples, and what has changed since it was
trained.
"""

from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.contracts.check_states import NOT_JUDGED, PASSED, WARNED, is_said
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, clearly, materialized, mlflow_link
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import explain_missing_approval, find_approval
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.steps import Step, code_version, read_step

CODE = code_version(
    "m3h_pipeline.scoring.scores",
    "m3h_pipeline.features.served",
    "m3h_pipeline.registry.approval",
    "m3h_pipeline.registry.digests",
    "m3h_pipeline.jobs.score",
)
MONITORING_CODE = code_version(
    "m3h_pipeline.scoring.monitoring", "m3h_core.metrics", "m3h_core.calibration"
)
_SHARED: dict[str, Any] = {"group_name": "scoring", "owners": OWNERS, "partitions_def": snapshots}
_CHECKS = {
    "inputs": "Features are distributed among new samples as among those that the champion learned from.",
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


class Which(dg.Config):
    """Which version scores whom: the one with the alias unless a number is given; everyone, or as
    `to_score` says.
    """

    alias: str = "champion"
    version: str = ""
    everyone: bool = False


@dg.asset(
    deps=[*(f"{modality}_inputs" for modality in MODALITIES), "valid_samples"],
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
    context: dg.AssetExecutionContext, config: Which, workspace: Workspace, launcher: JobLauncher
) -> dg.MaterializeResult:
    """Score the snapshot's samples."""
    from m3h_pipeline.registry.tags import CHAMPION
    from m3h_pipeline.registry.versions import find_version

    inputs = workspace.step(context, "inputs")
    samples = workspace.step(context, "valid/samples")
    asked = bool(config.version) or config.alias != CHAMPION
    workspace.connect()
    try:
        which = find_version(config.alias, config.version)
    except InputError as error:
        if asked:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        return _nobody(context, workspace, str(error), applies=True)
    approved = find_approval(workspace.root, which.version)
    if approved is None and not asked:
        return _nobody(context, workspace, explain_missing_approval(which.version), applies=False)
    learned = _learned(workspace, which.snapshot, which.cohort)
    # The demo lies in the past: nobody is still in hospital.
    everyone = config.everyone or workspace.config.source.name == "demo"
    job = {
        "mlflow": {"uri": workspace.mlflow_uri, "artifacts": str(workspace.mlflow_artifacts)},
        "version": which.version,
        "approved": approved,
        "snapshot": context.partition_key,
        "inputs": str(inputs.folder),
        "samples": str(samples.folder / "samples.parquet"),
        "learned": str(learned.folder.parent / "valid/samples/samples.parquet")
        if learned
        else None,
        "everyone": everyone,
        "cache": str(workspace.embedding_cache),
    }
    files = approved["digest"] if approved else None
    decided_by: list[object] = [
        CODE,
        which.version,
        files,
        which.training,
        learned,
        everyone,
        inputs,
        samples,
    ]

    def build(to: Path) -> dict[str, Any]:
        try:
            return launcher.run(context, "score", job, to)
        except InputError as error:
            if asked:
                raise
            raise NotApplicable(str(error)) from error

    # What nobody approved lies where nobody takes it for the champion's scores.
    name = "scores" if approved else f"{scoring.TRIAL}/version-{which.version}"
    try:
        step = workspace.produce(context, name, decided_by, build)
    except NotApplicable as error:
        # No reason to keep the rest of the night from people.
        return _nobody(context, workspace, str(error), applies=False)
    if approved:
        with lock_shared(workspace.root):
            scoring.publish_scores(workspace.root, step.folder / scoring.FILE)
    elif read_step(workspace.folder(context, "scores")) is None:
        # What comes after finds a night without scores.
        _nobody(context, workspace, f"version {which.version} is on trial", applies=True)
    card = mlflow_link(workspace, tracking.version_route(which.version))
    checks = [_applies(True, f"version {which.version} was applied")]
    return materialized(
        step, {"model card": card, "approved": bool(approved)}, step.info, checks=checks
    )


@dg.asset(
    deps=["scores", "valid_labels"],
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
def monitoring(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """Compare the samples that are new to the champion with its reference."""
    from m3h_pipeline.registry.versions import list_versions
    from m3h_pipeline.scoring.monitoring import monitor, verdicts

    inputs, scored, labels = (
        workspace.step(context, name) for name in ("inputs", "scores", "valid/labels")
    )
    config = workspace.config
    learned = None
    if version := scored.info.get("model_version"):
        workspace.connect()
        learned = next((_learned(workspace, known.snapshot, known.cohort) for known in list_versions()
                        if known.version == version), None)  # fmt: skip

    def build(to: Path) -> dict[str, Any]:
        found = monitor(
            inputs.folder, scored.folder, labels.folder, learned.folder if learned else None,
            config.monitoring, to, config.training.bootstrap,
        )  # fmt: skip
        return {"checks": {check: list(said) for check, said in verdicts(found).items()}}

    settings = config.monitoring.model_dump() | {"bootstrap": config.training.bootstrap}
    step = workspace.produce(
        context, "monitoring", [MONITORING_CODE, settings, inputs, scored, labels, learned], build
    )
    checks = [
        dg.AssetCheckResult(
            check_name=check,
            passed=passed,
            description=words,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"state": _state(passed, words)},
        )
        for check, (passed, words) in step.info["checks"].items()
    ]
    farthest = _farthest(read_json(step.folder / "monitoring.json"))
    shown = {"champion": version or "none", "what changed most": dg.MetadataValue.md(farthest)}
    return materialized(step, shown, checks=checks)


def _state(passed: bool, words: str) -> str:
    if is_said(words):
        return NOT_JUDGED
    return PASSED if passed else WARNED


def _farthest(found: dict[str, Any], most: int = 10) -> str:
    """The comparisons with the largest distances, as a table.

    >>> age = {"name": "age", "distance": 0.31, "changed": True}
    >>> print(_farthest({"inputs": [age], "missing": [], "scores": [], "reason": None}))
    | feature or task | what | distance | changed |
    |---|---|---:|---|
    | age | inputs | 0.310 | yes |
    """
    compared = [
        (what, row)
        for what in ("inputs", "missing", "scores")
        for row in found[what]
        if row["distance"]
    ]
    if not compared:
        return found["reason"] or "nothing was compared"
    rows = sorted(compared, key=lambda one: -one[1]["distance"])[:most]
    return "\n".join(
        [
            "| feature or task | what | distance | changed |",
            "|---|---|---:|---|",
            *(
                f"| {row['name']} | {what} | {row['distance']:.3f} | "
                f"{'yes' if row['changed'] else 'no'} |"
                for what, row in rows
            ),
        ]
    )


def _nobody(
    context: dg.AssetExecutionContext, workspace: Workspace, why: str, *, applies: bool
) -> dg.MaterializeResult:
    """A night without scores; ``applies``: not for a champion that can't be applied."""

    def build(to: Path) -> dict[str, Any]:
        scoring.write_scores([], to, version=None, snapshot=context.partition_key)
        return {"model_version": None, "samples": 0, "problem": None if applies else why}

    context.log.log("INFO" if applies else "ERROR", f"no scores: {why}")
    step = workspace.produce(context, "scores", [CODE, None, None if applies else why], build)
    return materialized(step, {"champion": "none", "note": why}, checks=[_applies(applies, why)])


def _applies(passed: bool, words: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=_APPLIES, passed=passed, description=words)


def _learned(workspace: Workspace, snapshot: str, cohort: str) -> Step | None:
    """The cohort that a version learned from, as long as it is there as it was then."""
    with clearly():
        step = read_step(workspace.root / "snapshots" / snapshot / "cohort")
    return step if step and step.version == cohort else None
