"""Reports: how good, what helped what, and one page that a person reads."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized, mlflow_link, picture
from m3h_pipeline.defs.training.assets import SUBSETS
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.snapshots import remove_snapshots, select_removable, snapshot_labels
from m3h_pipeline.state.steps import code_version

ARMS = ("joint", "single_task", "trees")
QUALITY_CODE = code_version(
    "m3h_core.metrics",
    "m3h_core.clusters",
    "m3h_pipeline.evaluation.quality",
    "m3h_pipeline.evaluation.detail",
)
TIM_CODE = code_version("m3h_core", "m3h_pipeline.jobs.tim", "m3h_pipeline.evaluation.quality")
REPORT_CODE = code_version("m3h_pipeline.reports", "m3h_pipeline.state.lineage")
_SHARED: dict[str, Any] = {"group_name": "reports", "owners": OWNERS, "partitions_def": snapshots}


@dg.asset(
    deps=["m3h_model", "single_task_models", "tree_models"],
    kinds={"scikitlearn", "altair"},
    code_version=QUALITY_CODE,
    description="Every task's score on the test split: joint, single-task and trees, with intervals.",
    **_SHARED,
)
def quality(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """Score the three arms on the same samples."""
    cohort = workspace.step(context, "cohort")
    arms = {arm: workspace.step(context, arm) for arm in ARMS}
    settings = workspace.config.training.bootstrap
    subsets = workspace.step(context, SUBSETS) if workspace.config.modalities.retrain else None

    def build(to: Path):
        from m3h_pipeline.evaluation.quality import write_quality

        return write_quality(
            cohort.folder,
            {arm: step.folder for arm, step in arms.items()},
            to,
            snapshot=context.partition_key,
            bootstrap=settings,
            subsets=subsets.folder if subsets else None,
        )

    step = workspace.produce(
        context, "quality", [QUALITY_CODE, settings, cohort, *arms.values(), subsets], build
    )
    return materialized(step, _comparison(read_json(step.folder / "metrics.json")), step.info)


@dg.asset(
    deps=["cohort", "m3h_model", "single_task_models"],
    kinds={"pytorch", "mlflow"},
    code_version=TIM_CODE,
    pool="gpu",
    description=(
        "Task interaction (TIM): how each task's score changes when another task is learned with "
        "it, which tasks to train together, and what the joint model loses without a task. Each "
        "cell says whether it was retrained or estimated."
    ),
    **_SHARED,
)
def tim_report(
    context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher
) -> dg.MaterializeResult:
    """Measure task interaction; its tables are kept beside the joint model in MLflow."""
    cohort, joint, single_task = (
        workspace.step(context, name) for name in ("cohort", "joint", "single_task")
    )
    config = workspace.config
    job = {
        "cohort": str(cohort.folder),
        "joint": str(joint.folder),
        "single_task": str(single_task.folder),
        "tasks": json.loads((cohort.folder / "tasks.json").read_text()),
        "training": config.training.model_dump(),
        "tim": config.tim.model_dump(),
    }

    def build(to: Path):
        facts = launcher.run(context, "tim", job, to)
        workspace.connect()
        for file in ("tim.json", "tim.parquet"):
            tracking.attach(joint.info["mlflow_run"], to / file)
        return facts

    step = workspace.produce(
        context, "tim", [TIM_CODE, cohort, joint, single_task, job["training"], job["tim"]], build
    )
    workspace.connect()
    return materialized(
        step,
        _interaction_pictures(read_json(step.folder / "tim.json"), job["tasks"]),
        {
            "tim.json in MLflow": mlflow_link(
                workspace, tracking.run_route(joint.info["mlflow_run"], "tim.json")
            )
        },
        step.info,
    )


@dg.asset(
    deps=["quality", "tim_report", "model_version", "monitoring"],
    kinds={"altair", "html"},
    code_version=REPORT_CODE,
    description=(
        "The page to read in the morning, one file that opens offline: cohort, quarantine, joint "
        "against single-task and trees, TIM, drift, limits."
    ),
    **_SHARED,
)
def report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """Write the page and the model card, hand both to MLflow, publish ``<out>/latest``."""
    from m3h_pipeline.registry.registration import write_description
    from m3h_pipeline.reports.publish import publish, write_page

    steps = {
        name: workspace.step(context, name)
        for name in (
            "ingested",
            "cohort",
            "quality",
            "tim",
            "model_version",
            "joint",
            "gate",
            "scores",
            "monitoring",
        )
    }
    version = steps["model_version"].info
    valid = workspace.valid(context)
    embedded = {
        modality: workspace.step(context, f"embedding/{modality}") for modality in MODALITIES
    }

    workspace.connect()
    run_url = (
        f"{tracking.page(workspace.root)}/{tracking.run_route(steps['joint'].info['mlflow_run'])}"
    )

    def build(to: Path):
        facts = write_page(
            workspace.config, context.partition_key, steps, valid, embedded, to, run_url
        )
        for file in ("report.html", "model_card.md"):
            tracking.attach(version["run_id"], to / file)
        write_description(version["version"], version["run_id"], (to / "model_card.md").read_text())
        return facts

    decided_by: list[object] = [
        REPORT_CODE,
        run_url,
        *steps.values(),
        *valid.values(),
        *embedded.values(),
    ]
    step = workspace.produce(context, "report", decided_by, build)
    with lock_shared(workspace.root):
        scored = (
            steps["scores"].folder / "scores.parquet"
            if steps["scores"].info["model_version"]
            else None
        )
        latest = publish(workspace.root, step.folder, scored)
    return materialized(
        step,
        {
            "report": dg.MetadataValue.path(str(latest / "report.html")),
            "report in MLflow": mlflow_link(
                workspace, tracking.run_route(version["run_id"], "report.html")
            ),
            "model card": mlflow_link(workspace, tracking.version_route(version["version"])),
            "snapshots removed": ", ".join(_retire(workspace)) or "none",
        },
        _comparison(read_json(latest / "metrics.json")),
        step.info,
    )


def _comparison(metrics: dict[str, Any]) -> dict[str, Any]:
    """The picture of joint minus single-task by its title; none where nothing can be compared."""
    from m3h_pipeline.reports import charts

    title = "joint minus single-task"
    drawn = charts.interval_charts(metrics["tasks"])
    return {title: picture(drawn[0], title)} if drawn else {}


def _interaction_pictures(tim: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The heat map and, where effects survive, their graph, by title; ``tasks``: specifications as
    dicts.
    """
    from m3h_pipeline.reports import interaction

    tim = interaction.arranged(tim, {task["name"]: task["department"] for task in tasks})
    charts = {"task interaction": interaction.heat_map(tim, cell=16, numbers=False)}
    if network := interaction.graph(tim):
        charts["effects that survive, drawn"] = network
    return {title: picture(chart, title) for title, chart in charts.items()}


def _retire(workspace: Workspace) -> list[str]:
    """Remove snapshots that ``[retention]`` does not keep: now that the new one is whole, and never
    one in use.
    """
    from m3h_pipeline.registry.versions import list_snapshots_in_use

    bounds = workspace.config.retention
    if not select_removable(snapshot_labels(workspace.root), [], bounds.snapshots, bounds.days):
        return []
    workspace.connect()
    gone = select_removable(
        snapshot_labels(workspace.root), list_snapshots_in_use(), bounds.snapshots, bounds.days
    )
    return remove_snapshots(workspace.root, gone)
