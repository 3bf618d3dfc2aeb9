"""Reports: how good, what helped what, and one page that a person reads."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized
from m3h_pipeline.defs.training.assets import SUBSETS
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.launch import JobLauncher
from m3h_pipeline.snapshots import labels, remove, surplus
from m3h_pipeline.storage import at_work, code_version, read_json

ARMS = ("joint", "single_task", "trees")
QUALITY_CODE = code_version(
    "m3h_core.metrics", "m3h_core.clusters", "m3h_pipeline.reports.quality", "m3h_pipeline.reports.detail"
)
TIM_CODE = code_version("m3h_core", "m3h_pipeline.jobs.tim", "m3h_pipeline.reports.quality")
REPORT_CODE = code_version("m3h_pipeline.reports", "m3h_pipeline.lineage")
_SHARED: dict[str, Any] = {"group_name": "reports", "owners": OWNERS, "partitions_def": snapshots}


@dg.asset(
    deps=["m3h_model", "single_task_models", "tree_models"],
    kinds={"scikitlearn"},
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
        from m3h_pipeline.reports.quality import write_quality

        return write_quality(
            cohort.folder,
            {arm: step.folder for arm, step in arms.items()},
            to,
            snapshot=context.partition_key,
            bootstrap=settings,
            subsets=subsets.folder if subsets else None,
        )

    step = workspace.produce(context, "quality", [QUALITY_CODE, settings, cohort, *arms.values(), subsets], build)
    return materialized(step, **step.info)


@dg.asset(
    deps=["cohort", "m3h_model", "single_task_models"],
    kinds={"pytorch", "mlflow"},
    code_version=TIM_CODE,
    pool="gpu",
    description="TIM: how each task's score changes when another task is learned with it, which tasks to train "
    "together, and what the joint model loses without a task. Each cell says whether it was retrained or estimated.",
    **_SHARED,
)
def tim_report(context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher) -> dg.MaterializeResult:
    """Measure task interaction; its tables are kept beside the joint model in MLflow."""
    from m3h_pipeline import tracking

    cohort, joint, single_task = (workspace.step(context, name) for name in ("cohort", "joint", "single_task"))
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
        tracking.connect(workspace.mlflow_uri, workspace.mlflow_artifacts)
        for file in ("tim.json", "tim.parquet"):
            tracking.attach(joint.info["mlflow_run"], to / file)
        return facts

    step = workspace.produce(context, "tim", [TIM_CODE, cohort, joint, single_task, job["training"], job["tim"]], build)
    return materialized(step, **_interaction_pictures(read_json(step.folder / "tim.json"), job["tasks"]), **step.info)


@dg.asset(
    deps=["quality", "tim_report", "model_version", "monitoring"],
    kinds={"altair", "html"},
    code_version=REPORT_CODE,
    description="One self-contained page: cohort, quarantine, joint against single-task and trees, TIM, drift, limits.",
    **_SHARED,
)
def report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """Write the page and the model card, hand both to MLflow, publish ``<out>/latest``."""
    from m3h_pipeline import tracking
    from m3h_pipeline.registry import describe
    from m3h_pipeline.reports import charts
    from m3h_pipeline.reports.publish import publish, write_page

    steps = {
        name: workspace.step(context, name)
        for name in ("ingested", "cohort", "quality", "tim", "model_version", "joint", "gate", "scores", "monitoring")
    }
    valid = workspace.valid(context)
    embedded = {modality: workspace.step(context, f"embedding/{modality}") for modality in MODALITIES}

    def build(to: Path):
        facts = write_page(workspace.config, context.partition_key, steps, valid, embedded, to)
        tracking.connect(workspace.mlflow_uri, workspace.mlflow_artifacts)
        tracking.attach(steps["model_version"].info["run_id"], to / "report.html")
        describe(steps["model_version"].info["version"], (to / "model_card.md").read_text())
        return facts

    decided_by: list[object] = [REPORT_CODE, *steps.values(), *valid.values(), *embedded.values()]
    step = workspace.produce(context, "report", decided_by, build)
    with at_work(workspace.root):
        scored = steps["scores"].folder / "scores.parquet" if steps["scores"].info["model_version"] else None
        latest = publish(workspace.root, step.folder, scored)
    pictures: dict[str, Any] = {}
    if compared := charts.interval_charts(read_json(latest / "metrics.json")["tasks"]):
        pictures["joint minus single-task"] = _picture(compared[0], "joint minus single-task")
    return materialized(
        step,
        report=dg.MetadataValue.path(str(latest / "report.html")),
        **{"snapshots removed": ", ".join(_retire(workspace)) or "none"},
        **pictures,
        **step.info,
    )


def _interaction_pictures(tim: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The heat map and, where effects survive, their graph, by title; ``tasks``: specifications as dicts."""
    from m3h_pipeline.reports import interaction

    tim = interaction.arranged(tim, {task["name"]: task["department"] for task in tasks})
    charts = {"task interaction": interaction.heat_map(tim, cell=16, numbers=False)}
    if network := interaction.graph(tim):
        charts["effects that survive"] = network
    return {title: _picture(chart, title) for title, chart in charts.items()}


def _picture(chart: Any, title: str) -> dg.MetadataValue:
    from m3h_pipeline.reports import charts

    return dg.MetadataValue.md(charts.markdown(chart, title))


def _retire(workspace: Workspace) -> list[str]:
    """Remove snapshots that ``[retention]`` does not keep: now that the new one is whole, and never one in use."""
    from m3h_pipeline import tracking
    from m3h_pipeline.registry import snapshots_in_use

    bounds = workspace.config.retention
    if not surplus(labels(workspace.root), [], bounds.snapshots, bounds.days):
        return []
    tracking.connect(workspace.mlflow_uri, workspace.mlflow_artifacts)
    gone = surplus(labels(workspace.root), snapshots_in_use(), bounds.snapshots, bounds.days)
    return remove(workspace.root, gone)
