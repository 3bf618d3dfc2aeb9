"""Training: the cohort as tensors, three arms that learn the same tasks from the same inputs and
splits, and the ensemble that is shipped.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.defs.embeddings import ALL_EMBEDDINGS, by_modality
from m3h_pipeline.defs.metadata import OWNERS, chart_metadata, mlflow_link, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace, key_of
from m3h_pipeline.evaluation.method import name_evaluation
from m3h_pipeline.jobs.curves import CURVES, read_curves
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.layout import EMBEDDER
from m3h_pipeline.state.steps import Step, code_version

COHORT_CODE = code_version(
    "m3h_core.data.cohort",
    "m3h_core.data.folds",
    "m3h_pipeline.features",
    "m3h_pipeline.evaluation.revealing_inputs",
)
# What the check of the cohort found, among the facts of its step.
_REVEALING = "revealing inputs"
CODE = code_version("m3h_core", "m3h_pipeline.jobs.joint_model", "m3h_pipeline.jobs.train")
# The step of the models that are trained on subsets of the modalities.
SUBSETS = "modalities"
# step -> the arm that its job trains
_ARMS = {
    "m3h_model": "joint",
    "single_task_models": "single_task",
    "tree_models": "trees",
    "ensemble_model": "ensemble",
    SUBSETS: "modalities",
}
# What of [training] decides what is trained; the rest of it can be changed without training anew.
_NETWORK_SETTINGS = ("seed", "epochs")
_DECIDING: dict[str, tuple[str, ...]] = {
    "joint": _NETWORK_SETTINGS,
    "single_task": _NETWORK_SETTINGS,
    "trees": ("seed", "tree_rounds"),
    "ensemble": ("coverage",),
    "modalities": (*_NETWORK_SETTINGS, "tree_rounds"),
}
_SHARED: dict[str, Any] = {"group_name": "training", "owners": OWNERS, "partitions_def": snapshots}


@dg.asset(
    ins=ALL_EMBEDDINGS,
    description=(
        "All embeddings, labels, splits and folds of the snapshot as one set of tensors: what "
        "m3h_core trains on."
    ),
    kinds={"numpy"},
    code_version=COHORT_CODE,
    check_specs=[
        dg.AssetCheckSpec(
            "revealing_inputs",
            asset="cohort",
            description="No input predicts a task by itself: that would be its label.",
            blocking=True,
        )
    ],
    **_SHARED,
)
def cohort(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    valid_samples: Step,
    valid_labels: Step,
    **embeddings: Step,
) -> dg.MaterializeResult:
    """Assemble the cohort."""
    from m3h_pipeline.features.assemble import write_cohort

    embedded = by_modality(embeddings)
    folders = {modality: step.folder for modality, step in embedded.items()}
    evaluation = workspace.config.evaluation

    def build(to: Path) -> dict[str, Any]:
        facts = write_cohort(
            valid_samples.folder,
            valid_labels.folder,
            folders,
            to,
            evaluation.folds,
            evaluation.most_to_cross_fit,
        )
        return {**facts, _REVEALING: _find_revealing(to, embedded)}

    step = workspace.produce(
        context,
        "cohort",
        [COHORT_CODE, evaluation.model_dump(), *embedded.values(), valid_samples, valid_labels],
        build,
    )
    words = {"evaluation": name_evaluation(step.info["folds"], step.info["judged"])}
    facts = {name: fact for name, fact in step.info.items() if name != _REVEALING}
    check = _check_inputs(step, workspace.config.validation.accepted)
    return to_materialization(step, words, facts, checks=[check])


def _find_revealing(cohort: Path, embedded: Mapping[str, Step]) -> list[dict[str, Any]]:
    """The inputs of a cohort that give a label away."""
    from m3h_core import Cohort
    from m3h_pipeline.evaluation.revealing_inputs import find_revealing_inputs, read_input_names

    tensors = Cohort.load(cohort)
    widths = {name: vectors.shape[1] for name, vectors in tensors.embeddings.items()}
    embedders = {name: step.folder / EMBEDDER for name, step in embedded.items()}
    names = read_input_names(embedders, widths)
    return [asdict(one) for one in find_revealing_inputs(tensors, read_tasks(cohort), names)]


def _check_inputs(cohort: Step, accepted: list[str]) -> dg.AssetCheckResult:
    """Whether an input of the cohort gives a label away that nobody has accepted."""
    from m3h_pipeline.evaluation.revealing_inputs import (
        RevealingInput,
        describe_revealing_inputs,
    )

    inputs = [RevealingInput(**one) for one in cohort.info[_REVEALING]]
    passed, words = describe_revealing_inputs(inputs, accepted)
    return dg.AssetCheckResult(
        check_name="revealing_inputs",
        passed=passed,
        description=words,
        metadata={"inputs found": len(inputs)},
    )


@dg.asset(
    kinds={"pytorch"},
    code_version=CODE,
    pool="gpu",
    description=(
        "The same network, one model a task (and fold): beside these it is seen what joint "
        "learning adds."
    ),
    **_SHARED,
)
def single_task_models(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher, cohort: Step
) -> dg.MaterializeResult:
    """Train the single-task arm."""
    step = _train(context, workspace, launcher, cohort, "single_task_models")
    return to_materialization(step, step.info)


@dg.asset(
    kinds={"lightgbm"},
    code_version=CODE,
    description=(
        "LightGBM's boosted trees, each task (and fold) by itself, on the same inputs: the bar "
        "that tabular practice sets."
    ),
    **_SHARED,
)
def tree_models(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher, cohort: Step
) -> dg.MaterializeResult:
    """Train the tree arm."""
    step = _train(context, workspace, launcher, cohort, "tree_models")
    return to_materialization(step, step.info)


@dg.asset(
    kinds={"pytorch", "mlflow"},
    code_version=CODE,
    pool="gpu",
    description=(
        "M3H, the joint model: one network that learns all tasks from all modalities, with "
        "cross-task attention, and one that reads the time series step by step; of a cross-fitted "
        "cohort one of each a fold, trained without it. Trained in a job of its own; the first "
        "fold's losses can be watched in MLflow."
    ),
    **_SHARED,
)
def m3h_model(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher, cohort: Step
) -> dg.MaterializeResult:
    """Train the joint model and, where that is asked for, the same network on subsets of the
    modalities.
    """
    from m3h_pipeline.reports import charts

    joint = _train(context, workspace, launcher, cohort, "m3h_model")
    workspace.connect()
    losses = charts.draw_losses(list(read_curves(joint.folder / CURVES).values()))
    metadata: dict[str, Any] = {
        "MLflow run": mlflow_link(workspace.root, tracking.get_run_route(joint.info["mlflow_run"])),
        "losses": chart_metadata(losses, "losses"),
    }
    if workspace.config.modalities.retrain:
        subsets = _train(context, workspace, launcher, cohort, SUBSETS)
        metadata["models of subsets of the modalities"] = subsets.info["models"]
    return to_materialization(joint, metadata, joint.info)


@dg.asset(
    kinds={"pytorch", "lightgbm"},
    code_version=CODE,
    description=(
        "The model that is shipped: the joint model and the boosted trees, of all folds, as one, "
        "each task's prediction their weighted mean, with its calibration. Beside it the same "
        "mixture with single-task networks, which shows what joint learning adds."
    ),
    **_SHARED,
)
def ensemble_model(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    cohort: Step,
    m3h_model: Step,
    single_task_models: Step,
    tree_models: Step,
) -> dg.MaterializeResult:
    """Combine the arms."""
    arms = {"joint": m3h_model, "single_task": single_task_models, "trees": tree_models}
    step = _train(context, workspace, launcher, cohort, "ensemble_model", arms)
    return to_materialization(step, step.info)


def _train(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    cohort: Step,
    name: str,
    arms: Mapping[str, Step] | None = None,
) -> Step:
    """Train one arm; ``arms``: those that the ensemble is made of."""
    arm = _ARMS[name]
    arms = arms or {}
    training = workspace.config.training.model_dump()
    model = workspace.config.model.model_dump()
    deciding = {setting: training[setting] for setting in _DECIDING[arm]}
    decided_by: list[object] = [CODE, cohort, deciding, *arms.values()]
    if arm not in ("trees", "ensemble"):
        decided_by.append(model)
    job: dict[str, Any] = {
        "arms": {of: str(step.folder) for of, step in arms.items()},
        "arm": arm,
        "cohort": str(cohort.folder),
        "tasks": [task.to_dict() for task in read_tasks(cohort.folder)],
        "training": training,
        "model": model,
        "series_steps": workspace.config.embedding.series_steps,
    }
    if arm == "joint":
        job["mlflow"] = {
            "uri": workspace.mlflow_uri,
            "artifacts": str(workspace.mlflow_artifacts),
            "key": key_of(name, decided_by),
            "name": f"m3h {context.partition_key}",
            "tags": {
                "dagster.run_id": context.run_id,
                "dagster.partition": context.partition_key,
                "dagster.asset_key": name,
                "m3h.cohort": cohort.version,
                "m3h.code": CODE,
            },
        }
    return workspace.produce(
        context, name, decided_by, lambda to: launcher.run(context, "train", job, to)
    )
