"""Reports: how good, what helped what, and one page that a person reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.defs.embeddings import ALL_EMBEDDINGS, by_modality
from m3h_pipeline.defs.io_manager import further_step
from m3h_pipeline.defs.metadata import OWNERS, chart_metadata, mlflow_link, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.registry import GATE
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.training import SUBSETS
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.registry import tracking
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.snapshots import remove_snapshots, select_removable, snapshot_labels
from m3h_pipeline.state.steps import Step, code_version

QUALITY_CODE = code_version(
    "m3h_core.metrics",
    "m3h_core.data.silhouette",
    "m3h_core.data.nulls",
    "m3h_core.clusters",
    "m3h_core.cluster_evidence",
    "m3h_core.calibration",
    "m3h_core.grouped",
    "m3h_pipeline.evaluation",
)
TIM_CODE = code_version("m3h_core", "m3h_pipeline.jobs.tim", "m3h_pipeline.evaluation.scores")
REPORT_CODE = code_version("m3h_pipeline.reports", "m3h_pipeline.state.lineage")
_VALID_TABLES = {f"valid_{table}": dg.AssetIn() for table in TABLES}
_SHARED: dict[str, Any] = {"group_name": "reports", "owners": OWNERS, "partitions_def": snapshots}


@dg.asset(
    kinds={"scikitlearn", "altair"},
    code_version=QUALITY_CODE,
    description=(
        "Every task's score on patients that the model did not see: the shipped model, the same "
        "with single-task networks, the joint networks and the trees alone, with intervals."
    ),
    **_SHARED,
)
def quality(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    cohort: Step,
    ensemble_model: Step,
    m3h_model: Step,
) -> dg.MaterializeResult:
    """Score the model and what it is compared with on the same samples."""
    config = workspace.config
    bootstrap = config.training.bootstrap
    arms = {"ensemble": ensemble_model, "joint": m3h_model}
    folders = {arm: step.folder for arm, step in arms.items()}
    subsets = further_step(m3h_model, SUBSETS) if config.modalities.retrain else None

    def build(to: Path):
        from m3h_pipeline.evaluation.outputs import write_quality

        return write_quality(
            cohort.folder,
            folders,
            to,
            snapshot=context.partition_key,
            bootstrap=bootstrap,
            subsets=subsets.folder if subsets else None,
        )

    step = workspace.produce(
        context, "quality", [QUALITY_CODE, bootstrap, cohort, *arms.values(), subsets], build
    )
    return to_materialization(
        step, _chart_comparison(read_json(step.folder / "metrics.json")), step.info
    )


@dg.asset(
    kinds={"pytorch", "mlflow"},
    code_version=TIM_CODE,
    pool="gpu",
    description=(
        "Task interaction (TIM): how each task's score changes when another task is learned with "
        "it, what all tasks together do for it, which tasks to train together, and what the joint "
        "model loses without a task; on patients that the models did not see."
    ),
    **_SHARED,
)
def tim_report(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    launcher: JobLauncher,
    cohort: Step,
    m3h_model: Step,
    single_task_models: Step,
) -> dg.MaterializeResult:
    """Measure task interaction; its tables are kept beside the joint model in MLflow."""
    config = workspace.config
    tasks = read_tasks(cohort.folder)
    mlflow_run = m3h_model.info["mlflow_run"]
    job = {
        "cohort": str(cohort.folder),
        "joint": str(m3h_model.folder),
        "single_task": str(single_task_models.folder),
        "tasks": [task.to_dict() for task in tasks],
        "training": config.training.model_dump(),
        "model": config.model.model_dump(),
        "tim": config.tim.model_dump(),
        "folds": config.evaluation.folds,
    }

    def build(to: Path):
        facts = launcher.run(context, "tim", job, to)
        workspace.connect()
        for file in ("tim.json", "tim.parquet"):
            tracking.attach(mlflow_run, to / file)
        return facts

    decided_by: list[object] = [
        TIM_CODE,
        cohort,
        m3h_model,
        single_task_models,
        job["training"],
        job["model"],
        job["tim"],
        job["folds"],
    ]
    step = workspace.produce(context, "tim_report", decided_by, build)
    workspace.connect()
    link = mlflow_link(workspace.root, tracking.get_run_route(mlflow_run, "tim.json"))
    return to_materialization(
        step,
        _chart_interaction(read_json(step.folder / "tim.json"), tasks),
        {"tim.json in MLflow": link},
        step.info,
    )


@dg.asset(
    ins=_VALID_TABLES | ALL_EMBEDDINGS,
    kinds={"altair", "html"},
    code_version=REPORT_CODE,
    description=(
        "The page to read in the morning, one file that opens offline: cohort, quarantine, the "
        "model against single-task networks and trees, TIM, drift, limits."
    ),
    **_SHARED,
)
def report(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    samples: Step,
    cohort: Step,
    m3h_model: Step,
    quality: Step,
    tim_report: Step,
    model_version: Step,
    scores: Step,
    monitoring: Step,
    **others: Step,
) -> dg.MaterializeResult:
    """Write the page and the model card, hand both to MLflow, publish ``<out>/latest``."""
    from m3h_pipeline.registry.registration import write_description
    from m3h_pipeline.reports.publish import publish, write_page

    steps = {
        # The step of all ingested tables: the flow of samples begins there.
        "ingested": samples,
        "cohort": cohort,
        "quality": quality,
        "tim": tim_report,
        "model_version": model_version,
        "joint": m3h_model,
        "gate": further_step(model_version, GATE),
        "scores": scores,
        "monitoring": monitoring,
    }
    valid = {table: others[f"valid_{table}"] for table in TABLES}
    embedded = by_modality(others)
    version = model_version.info
    workspace.connect()
    route = tracking.get_run_route(m3h_model.info["mlflow_run"])
    run_url = f"{tracking.find_page(workspace.root)}/{route}"

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
    has_scores = bool(scores.info["model_version"])
    with lock_shared(workspace.root):
        latest = publish(
            workspace.root, step.folder, scores.folder / "scores.parquet" if has_scores else None
        )
    report_route = tracking.get_run_route(version["run_id"], "report.html")
    return to_materialization(
        step,
        {
            "report": dg.MetadataValue.path(str(latest / "report.html")),
            "report in MLflow": mlflow_link(workspace.root, report_route),
            "model card": mlflow_link(
                workspace.root, tracking.get_version_route(version["version"])
            ),
            "snapshots removed": ", ".join(remove_surplus_snapshots(workspace)) or "none",
        },
        _chart_comparison(read_json(latest / "metrics.json")),
        step.info,
    )


def _chart_comparison(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The chart of model minus single-task by its title; none where nothing can be compared."""
    from m3h_pipeline.reports import charts

    title = "model minus the same with single-task networks"
    drawn = charts.draw_intervals(metrics["tasks"])
    return {title: chart_metadata(drawn[0], title)} if drawn else {}


def _chart_interaction(tim: dict[str, Any], tasks: Sequence[TaskSpec]) -> dict[str, Any]:
    """The heat map and, where effects survive, their graph, by title; ``tasks``: specifications as
    dicts.
    """
    from m3h_pipeline.reports.interaction_charts import draw_graph, draw_heat_map
    from m3h_pipeline.reports.interaction_order import arrange_tasks

    departments = {task.name: task.department for task in tasks}
    arranged = arrange_tasks(tim, departments)
    charts = {"task interaction": draw_heat_map(arranged, cell=16, numbers=False)}
    if network := draw_graph(arranged):
        charts["effects that survive, drawn"] = network
    return {title: chart_metadata(chart, title) for title, chart in charts.items()}


def remove_surplus_snapshots(workspace: Workspace) -> list[str]:
    """Remove snapshots that ``[retention]`` does not keep: now that the new one is whole, and never
    one in use.
    """
    from m3h_pipeline.registry.versions import list_snapshots_in_use

    bounds = workspace.config.retention
    if not select_removable(snapshot_labels(workspace.root), [], bounds.snapshots, bounds.days):
        return []
    workspace.connect()
    removable = select_removable(
        snapshot_labels(workspace.root), list_snapshots_in_use(), bounds.snapshots, bounds.days
    )
    return remove_snapshots(workspace.root, removable)
