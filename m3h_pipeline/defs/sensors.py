"""Sensors: the one that carries out reviews, and the one that tells of a failed night."""

import dagster as dg

from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry.notify import notify


@dg.sensor(
    name="review",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Moves the aliases champion and previous as people decided in MLflow's pages, and "
        "finishes what `m3h review` could not. See `m3h review list`."
    ),
)
def review_sensor(context: dg.SensorEvaluationContext, workspace: Workspace) -> dg.SkipReason:
    """Carry out what was decided since the last tick."""
    from m3h_pipeline.registry.promotion import apply_decisions, notify_of_changes_by_hand

    uri = workspace.mlflow_uri
    if uri.startswith("sqlite:///") and not (workspace.root / "mlflow" / "mlflow.db").exists():
        return dg.SkipReason("no model is registered yet")
    try:
        messages = apply_decisions(
            workspace.root, auto_promote=workspace.config.review.auto_promote
        )
    except InputError as error:
        context.log.warning(str(error))
        return dg.SkipReason(
            f"{error}; what was decided stays in the audit table and is carried out when it is back"
        )
    for message in messages:
        context.log.info(message)
    for problem in notify_of_changes_by_hand(workspace.root, messages):
        context.log.warning(problem)
    return dg.SkipReason("; ".join(messages) or "nothing was decided")


@dg.run_failure_sensor(
    name="failed_run",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tells of a failed run by [notify] in m3h.toml; without one it only stands in Dagster's "
        "log."
    ),
)
def failure_sensor(context: dg.RunFailureSensorContext, workspace: Workspace) -> None:
    """Say which run failed, of which snapshot, at which steps."""
    run = context.dagster_run
    events = context.get_step_failure_events()
    steps = sorted({event.step_key for event in events if event.step_key})
    snapshot = run.tags.get("dagster/partition", "none")
    message = (
        f"M3H: run {run.run_id} ({run.job_name}, snapshot {snapshot}) failed at "
        f"{', '.join(steps) or 'its start'}."
    )
    context.log.error(message)
    for problem in notify(workspace.config.notify, message):
        context.log.warning(problem)
