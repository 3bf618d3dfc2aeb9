"""Registry: the ensemble with its embedders becomes a version that the gate judges and people
review.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from m3h_core.data.cohort import SERIES, TIMESERIES
from m3h_pipeline.defs.embeddings import ALL_EMBEDDINGS, by_modality
from m3h_pipeline.defs.inputs import ALL_INPUTS
from m3h_pipeline.defs.io_manager import shared_step
from m3h_pipeline.defs.metadata import OWNERS, mlflow_link, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.schedules import freshness_policy, load_settings
from m3h_pipeline.errors import InputError
from m3h_pipeline.evaluation.scores import load_calibrator
from m3h_pipeline.features.items import MODALITIES, is_given
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import (
    explain_missing_approval,
    find_anchor_approval,
    find_approval,
)
from m3h_pipeline.registry.gate import CHECKS, ReferenceModel, format_advice
from m3h_pipeline.registry.gate.advice import select_rejecting
from m3h_pipeline.registry.notify import notify
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.state.layout import (
    CALIBRATION,
    EMBEDDER,
    PREDICTIONS,
    SERIES_EMBEDDER,
    SINGLE_TASK,
    TREES_ALONE,
)
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
    "m3h_pipeline.evaluation.scores",
    "m3h_core",
)
# The second step of `model_version`: what the gate said of it.
GATE = "gate"


@dataclass(frozen=True)
class Candidate:
    """The steps of tonight that the candidate and the gate's verdict are made from."""

    inputs: Step
    embedded: Mapping[str, Step]
    cohort: Step
    joint: Step
    ensemble: Step
    quality: Step


@dg.asset(
    ins=ALL_INPUTS | ALL_EMBEDDINGS,
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    code_version=CODE,
    partitions_def=snapshots,
    pool="gpu",
    freshness_policy=freshness_policy(load_settings()),
    check_specs=[
        # None of them blocks: a candidate that is rejected is no reason to keep the night's data
        # from people.
        dg.AssetCheckSpec(name, asset="model_version", description=description)
        for name, description in CHECKS.items()
    ],
    description=(
        "The ensemble and its own embedders as a version in MLflow's registry. The gate's "
        "checks judge it against the champion, the anchor and the night's other arms; what passes "
        "waits until a person says `m3h review approve`."
    ),
)
def model_version(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    cohort: Step,
    m3h_model: Step,
    ensemble_model: Step,
    quality: Step,
    **others: Step,
) -> dg.MaterializeResult:
    """Register the candidate, then judge it."""
    from mlflow import MlflowClient

    from m3h_pipeline.registry.versions import RegistryState

    candidate = Candidate(
        inputs=shared_step({name: others[name] for name in ALL_INPUTS}),
        embedded=by_modality(others),
        cohort=cohort,
        joint=m3h_model,
        ensemble=ensemble_model,
        quality=quality,
    )
    workspace.connect()
    version = _register(context, workspace, candidate)
    gate = _judge(context, workspace, launcher, candidate, version)
    verdict = read_json(gate.folder / "gate.json")
    number = version.info["version"]
    # Not as it was when the gate judged: people have decided since.
    standing: dict[str, Any] = {
        "validation status": RegistryState.fetch(MlflowClient()).describe(number)
    }
    return to_materialization(
        version,
        {
            "model card and review": mlflow_link(
                workspace.root, tracking.get_version_route(number)
            ),
            "MLflow run": mlflow_link(
                workspace.root, tracking.get_run_route(version.info["run_id"])
            ),
            "tasks judged": verdict["judged"],
            "champion then": verdict["champion"] or "none",
            "anchor then": verdict["anchor"] or "none",
            "what to do": format_advice(verdict, number) or "nothing: it passed the gate",
        },
        gate.info | standing,
        version.info,
        checks=[_to_dagster(check) for check in verdict["checks"]],
    )


def _to_dagster(check: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check["name"],
        passed=check["passed"],
        severity=dg.AssetCheckSeverity[check["severity"].upper()],
        description=check["reason"],
        metadata=check["counts"],
    )


def _register(
    context: dg.AssetExecutionContext, workspace: Workspace, candidate: Candidate
) -> Step:
    inputs = candidate.inputs
    joint = candidate.joint
    ensemble = candidate.ensemble
    quality = candidate.quality
    embedded = candidate.embedded

    def build(to: Path) -> dict[str, Any]:
        from m3h_pipeline.registry.registration import collect_provenance, register
        from m3h_pipeline.scoring.monitoring.reference import REFERENCE, write_reference

        metrics = json.loads((quality.folder / "metrics.json").read_text())
        write_reference(inputs.folder, candidate.cohort.folder, ensemble.folder, metrics, to)
        return register(
            key=ensemble.key,
            training=joint.key,
            model=ensemble.folder / "model",
            embedders=_find_embedders(embedded),
            calibration=ensemble.folder / CALIBRATION,
            reference=to / REFERENCE,
            features=_features(inputs),
            given=[modality for modality in MODALITIES if is_given(modality, inputs.folder)],
            metrics=metrics,
            comparisons=read_json(quality.folder / "detail.json")["comparisons"],
            tags={
                "snapshot": context.partition_key,
                "dagster.run_id": context.run_id,
                "m3h.cohort": candidate.cohort.version,
                **collect_provenance(),
            },
            to=to,
        )

    decided_by: list[object] = [
        CODE,
        joint.key,
        joint,
        ensemble.key,
        ensemble,
        quality,
        *embedded.values(),
    ]
    return workspace.produce(context, "model_version", decided_by, build)


def _find_embedders(embedded: Mapping[str, Step]) -> dict[str, Path]:
    """The folders of the embedders that travel inside the model, by what they embed."""
    folders = {name: step.folder / EMBEDDER for name, step in embedded.items()}
    in_steps = embedded[TIMESERIES].folder / SERIES_EMBEDDER
    return folders | ({SERIES: in_steps} if in_steps.exists() else {})


def _features(inputs: Step) -> dict[str, str]:
    """Each declared feature's type in a served model's signature."""
    features = {}
    for name, kind in pl.read_parquet_schema(inputs.folder / "tabular.parquet").items():
        if name not in ("sample_id", "split"):
            is_number = kind.is_numeric() or kind == pl.Boolean
            features[name] = "double" if is_number else "string"
    return features


def _judge(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    candidate: Candidate,
    version: Step,
) -> Step:
    """The gate's verdict, once a version: a champion of later nights does not judge it again."""
    cohort = candidate.cohort
    ensemble = candidate.ensemble
    quality = candidate.quality
    config = workspace.config.gate
    number = version.info["version"]

    def build(to: Path) -> dict[str, Any]:
        from mlflow import MlflowClient
        from safetensors.numpy import load_file

        from m3h_core import Cohort
        from m3h_pipeline.registry.gate import judge
        from m3h_pipeline.registry.tags import ANCHOR, CHAMPION
        from m3h_pipeline.registry.verdicts import record_verdict
        from m3h_pipeline.registry.versions import RegistryState

        judged = Cohort.load(cohort.folder)
        aliases = RegistryState.fetch(MlflowClient()).aliases
        champion = aliases.get(CHAMPION)
        anchor = aliases.get(ANCHOR)
        applied: dict[str | None, ReferenceModel] = {}
        for holder in sorted({name for name in (champion, anchor) if name and name != number}):
            applied[holder] = _apply(
                context, workspace, launcher, candidate, holder, to, is_anchor=holder != champion
            )
        verdict = judge(
            judged,
            read_tasks(cohort.folder),
            load_file(ensemble.folder / PREDICTIONS),
            load_calibrator(ensemble.folder, judged),
            applied.get(champion),
            config,
            anchor=applied.get(anchor),
            arms={
                "single_task": load_file(ensemble.folder / SINGLE_TASK),
                "trees": load_file(ensemble.folder / TREES_ALONE),
            },
            intervals=_intervals(read_json(quality.folder / "metrics.json")["tasks"]),
        )
        write_json(to / "gate.json", verdict)
        return {"validation status": record_verdict(MlflowClient(), number, verdict)}

    decided_by: list[object] = [
        GATE_CODE,
        config.model_dump(),
        number,
        cohort,
        ensemble,
        quality,
    ]
    step = workspace.produce(context, GATE, decided_by, build)
    if not step.reused:
        _notify(context, workspace, number, read_json(step.folder / "gate.json"))
    return step


def _intervals(scores: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    return {
        score["task"]: (score["low"], score["high"])
        for score in scores
        if score["low"] is not None and score["high"] is not None
    }


def _apply(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    candidate: Candidate,
    holder: str,
    to: Path,
    *,
    is_anchor: bool,
) -> ReferenceModel:
    """What a registered version predicts of tonight's samples that are judged, or that it could
    not be applied.
    """
    from safetensors.numpy import load_file

    from m3h_pipeline.jobs.champion import FILE

    find = find_anchor_approval if is_anchor else find_approval
    approved = find(workspace.root, holder)
    if approved is None:
        advice = f"no decision names its files: `m3h review anchor {holder}`"
        context.log.warning(advice if is_anchor else explain_missing_approval(holder))
        return ReferenceModel(
            holder, {}, "no decision names its files; the run's log says what to do"
        )
    job = {
        "mlflow": {"uri": workspace.mlflow_uri, "artifacts": str(workspace.mlflow_artifacts)},
        "version": holder,
        "approved": approved,
        "inputs": str(candidate.inputs.folder),
        "cohort": str(candidate.cohort.folder),
        "cache": str(workspace.embedding_cache),
    }
    folder = to / f"version-{holder}"
    folder.mkdir(exist_ok=True)
    try:
        facts = launcher.run(context, "champion", job, folder)
        return ReferenceModel(holder, load_file(folder / FILE), has_folds=facts["folds"] > 1)
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
    return ReferenceModel(
        holder, {}, "it could not be applied to these samples; the run's log says why"
    )


def _notify(
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
