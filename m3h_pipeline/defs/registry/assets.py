"""Registry: the joint model with its embedders becomes a version that the gate judges and people
review.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized, mlflow_link
from m3h_pipeline.defs.schedules import overdue, settings
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.items import MODALITIES, is_given
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import (
    explain_missing_approval,
    find_anchor_approval,
    find_approval,
)
from m3h_pipeline.registry.gate import ARMS, CHECKS, Champion, format_advice
from m3h_pipeline.registry.gate.advice import select_rejecting
from m3h_pipeline.registry.notify import notify
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.state.steps import Step, code_version

CODE = code_version(
    "m3h_pipeline.registry.registration",
    "m3h_pipeline.registry.signature",
    "m3h_pipeline.registry.serving",
    "m3h_pipeline.scoring.monitoring",
    "m3h_core",
)
GATE_CODE = code_version(
    "m3h_pipeline.registry.gate",
    "m3h_pipeline.jobs.champion",
    "m3h_pipeline.registry.approval",
    "m3h_pipeline.registry.digests",
    "m3h_core",
)
PREDICTIONS = "predictions.safetensors"


@dg.asset(
    deps=["m3h_model", "single_task_models", "tree_models", "quality"],
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    code_version=CODE,
    partitions_def=snapshots,
    pool="gpu",
    freshness_policy=overdue(settings()),
    check_specs=[
        # None of them blocks: a candidate that is rejected is no reason to keep the night's data
        # from people.
        dg.AssetCheckSpec(name, asset="model_version", description=description)
        for name, description in CHECKS.items()
    ],
    description=(
        "The joint model and its own embedders as a version in MLflow's registry. The gate's "
        "checks judge it against the champion, the anchor and the night's other arms; what passes "
        "waits until a person says `m3h review approve`."
    ),
)
def model_version(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher
) -> dg.MaterializeResult:
    """Register the candidate, then judge it."""
    from mlflow import MlflowClient

    from m3h_pipeline.registry.versions import RegistryState

    workspace.connect()
    version = _registered(context, workspace)
    gate = _judged(context, workspace, launcher, version)
    verdict = read_json(gate.folder / "gate.json")
    number = version.info["version"]
    # Not as it was when the gate judged: people have decided since.
    now: dict[str, Any] = {
        "validation status": RegistryState.fetch(MlflowClient()).describe(number)
    }
    return materialized(
        version,
        {
            "model card and review": mlflow_link(workspace, tracking.version_route(number)),
            "MLflow run": mlflow_link(workspace, tracking.run_route(version.info["run_id"])),
            "tasks judged": verdict["judged"],
            "champion then": verdict["champion"] or "none",
            "anchor then": verdict["anchor"] or "none",
            "what to do": format_advice(verdict, number) or "nothing: it passed the gate",
        },
        gate.info | now,
        version.info,
        checks=[
            dg.AssetCheckResult(
                check_name=check["name"],
                passed=check["passed"],
                severity=dg.AssetCheckSeverity[check["severity"].upper()],
                description=check["reason"],
                metadata=check["counts"],
            )
            for check in verdict["checks"]
        ],
    )


def _registered(context: dg.AssetExecutionContext, workspace: Workspace) -> Step:
    joint = workspace.step(context, "joint")
    quality = workspace.step(context, "quality")
    embedded = {
        modality: workspace.step(context, f"embedding/{modality}") for modality in MODALITIES
    }
    inputs = workspace.step(context, "inputs")
    cohort = workspace.step(context, "cohort")

    def build(to):
        from m3h_pipeline.registry.registration import collect_provenance, register
        from m3h_pipeline.scoring.monitoring import REFERENCE, write_reference

        metrics = json.loads((quality.folder / "metrics.json").read_text())
        write_reference(inputs.folder, cohort.folder, joint.folder, metrics, to)
        schema = pl.read_parquet_schema(inputs.folder / "tabular.parquet")
        return register(
            key=joint.key,
            model=joint.folder / "model",
            embedders={name: step.folder / "embedder" for name, step in embedded.items()},
            calibration=joint.folder / "calibration",
            reference=to / REFERENCE,
            features={
                name: "double" if kind.is_numeric() or kind == pl.Boolean else "string"
                for name, kind in schema.items()
                if name not in ("sample_id", "split")
            },
            given=[modality for modality in MODALITIES if is_given(modality, inputs.folder)],
            metrics=metrics,
            comparisons=read_json(quality.folder / "detail.json")["comparisons"],
            tags={
                "snapshot": context.partition_key,
                "dagster.run_id": context.run_id,
                "m3h.cohort": cohort.version,
                **collect_provenance(),
            },
        )

    return workspace.produce(
        context, "model_version", [CODE, joint.key, joint, quality, *embedded.values()], build
    )


def _judged(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher, version: Step
) -> Step:
    """The gate's verdict, once a version: a champion of later nights does not judge it again."""
    cohort = workspace.step(context, "cohort")
    joint = workspace.step(context, "joint")
    quality = workspace.step(context, "quality")
    config = workspace.config.gate
    arms = {arm: workspace.step(context, arm) for arm in ARMS}
    number = version.info["version"]

    def build(to: Path) -> dict[str, Any]:
        from mlflow import MlflowClient
        from safetensors.numpy import load_file

        from m3h_core import Calibrator, Cohort, TaskSpec
        from m3h_pipeline.registry.gate import judge
        from m3h_pipeline.registry.tags import ANCHOR, CHAMPION
        from m3h_pipeline.registry.verdicts import record_verdict
        from m3h_pipeline.registry.versions import RegistryState

        aliases = RegistryState.fetch(MlflowClient()).aliases
        holders = {alias: aliases.get(alias) for alias in (CHAMPION, ANCHOR)}
        others = {holder for holder in holders.values() if holder and holder != number}
        applied = {
            holder: _applied(
                context, workspace, launcher, holder, to, is_anchor=holder != holders[CHAMPION]
            )
            for holder in sorted(others)
        }
        records = read_json(cohort.folder / "tasks.json")
        scores = read_json(quality.folder / "metrics.json")["tasks"]
        verdict = judge(
            Cohort.load(cohort.folder),
            [TaskSpec.from_dict(record) for record in records],
            load_file(joint.folder / PREDICTIONS),
            Calibrator.load(joint.folder / "calibration"),
            applied.get(holders[CHAMPION] or ""),
            config,
            anchor=applied.get(holders[ANCHOR] or ""),
            arms={arm: load_file(step.folder / PREDICTIONS) for arm, step in arms.items()},
            intervals={
                score["task"]: (score["low"], score["high"])
                for score in scores
                if score["low"] is not None and score["high"] is not None
            },
        )
        write_json(to / "gate.json", verdict)
        return {"validation status": record_verdict(MlflowClient(), number, verdict)}

    decided_by: list[object] = [
        GATE_CODE,
        config.model_dump(),
        number,
        cohort,
        joint,
        quality,
        *arms.values(),
    ]
    step = workspace.produce(context, "gate", decided_by, build)
    if not step.reused:
        _tell(context, workspace, number, read_json(step.folder / "gate.json"))
    return step


def _applied(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    holder: str,
    to: Path,
    *,
    is_anchor: bool,
) -> Champion:
    """What a registered version predicts of tonight's test samples, or that it could not be
    applied.
    """
    from safetensors.numpy import load_file

    from m3h_pipeline.jobs.champion import FILE

    find = find_anchor_approval if is_anchor else find_approval
    approved = find(workspace.root, holder)
    if approved is None:
        words = (
            f"no decision names its files: `m3h review anchor {holder}`"
            if is_anchor
            else explain_missing_approval(holder)
        )
        context.log.warning(words)
        return Champion(holder, {}, "no decision names its files; the run's log says what to do")
    job = {
        "mlflow": {"uri": workspace.mlflow_uri, "artifacts": str(workspace.mlflow_artifacts)},
        "version": holder,
        "approved": approved,
        "inputs": str(workspace.step(context, "inputs").folder),
        "cohort": str(workspace.step(context, "cohort").folder),
        "cache": str(workspace.embedding_cache),
    }
    folder = to / f"version-{holder}"
    folder.mkdir(exist_ok=True)
    try:
        launcher.run(context, "champion", job, folder)
        return Champion(holder, load_file(folder / FILE))
    except InputError as error:
        context.log.warning(f"version {holder} could not be applied: {error}")
    except Exception as error:
        # Of an old version's code anything may be expected, and an anchor must not end the night.
        if not is_anchor:
            raise
        context.log.warning(
            f"version {holder}, the anchor, could not be applied ({type(error).__name__})"
        )
    finally:
        # A row a sample, of no further use.
        shutil.rmtree(folder)
    return Champion(holder, {}, "it could not be applied to these samples; the run's log says why")


def _tell(
    context: dg.AssetExecutionContext, workspace: Workspace, number: str, verdict: dict[str, Any]
) -> None:
    """Tell people of a rejection by ``[notify]``, and what to do about it."""
    if verdict["passed"]:
        return
    names = ", ".join(check["name"] for check in select_rejecting(verdict))
    message = (
        f"M3H: version {number} (snapshot {context.partition_key}) was rejected by the gate: "
        f"{names}."
    )
    for problem in notify(workspace.config.notify, f"{message} {format_advice(verdict, number)}"):
        context.log.warning(problem)
