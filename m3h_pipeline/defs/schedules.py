"""The night: one run of the main job a day, through to a registered candidate."""

import datetime as dt
import os
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from m3h_pipeline import config as configuration
from m3h_pipeline.defs.partitions import add_partition
from m3h_pipeline.defs.resources import OUT_VARIABLE, Workspace
from m3h_pipeline.errors import InputError
from m3h_pipeline.state.layout import INGESTED
from m3h_pipeline.state.locks import is_locked
from m3h_pipeline.state.paths import out_option
from m3h_pipeline.state.snapshots import snapshot_labels

# A run that `m3h run` makes in its own process; Dagster does not notice when that process is
# killed, the lock does.
COMMAND_TAG = "m3h/command"
RUN_LOCK = ".run.lock"
_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def load_settings() -> configuration.Config:
    """What m3h.toml says when the definitions are loaded: a schedule's time is part of them."""
    out = os.environ.get(OUT_VARIABLE, "")
    try:
        return configuration.load(Path(out)) if out else configuration.Config()
    except InputError:  # not configured yet, or a mistake that the first step will name
        return configuration.Config()


def schedule_timezone(config: configuration.Config) -> str:
    """The schedule's time zone."""
    return config.nightly.timezone or config.cohort.timezone


def build_nightly_schedule(job: str) -> dg.ScheduleDefinition:
    """The schedule of the main job; it runs as soon as a daemon does."""
    config = load_settings()

    @dg.schedule(
        name="nightly",
        job_name=job,
        cron_schedule=config.nightly.cron,
        execution_timezone=schedule_timezone(config),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            "The night's snapshot through to a registered candidate ([nightly] in m3h.toml)."
        ),
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, workspace: Workspace
    ) -> dg.RunRequest | dg.SkipReason:
        night = context.scheduled_execution_time.astimezone(
            ZoneInfo(schedule_timezone(workspace.config))
        )
        label = night.date().isoformat()
        if run_id := find_active_run(context.instance, workspace.root, job):
            return dg.SkipReason(
                f"run {run_id} is still going: a second one would compute the same steps"
            )
        if reason := reason_to_skip(workspace, label):
            return dg.SkipReason(reason)
        add_partition(context.instance, label)
        save_label(workspace, label)
        return dg.RunRequest(run_key=label, partition_key=label)

    return schedule


def find_active_run(instance: dg.DagsterInstance, out: Path, job: str) -> str | None:
    """The id of a run of the job that has not ended, or None."""
    for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=_ACTIVE)):
        if COMMAND_TAG not in run.tags or is_locked(out / RUN_LOCK):
            return run.run_id
    return None


def reason_to_skip(workspace: Workspace, label: str) -> str | None:
    """Why the night of this label needs no run: a newer snapshot, or a source that is as it was."""
    newest = max(snapshot_labels(workspace.root), default=None)
    if newest is None:
        return None
    if label < newest:
        return (
            f"the snapshot {newest} is newer than this night, {label}; if its date is a mistake: "
            f"m3h snapshot drop {newest}{out_option(workspace.root)}"
        )
    step = workspace.find_step(newest, INGESTED)
    if label > newest and step and step.info.get("fingerprint") == workspace.source.fingerprint():
        return f"the source is as it was for the snapshot {newest}: there is nothing new to learn"
    return None


def save_label(workspace: Workspace, label: str) -> None:
    """`m3h run` without a date goes on with this night's."""
    configuration.save(configuration.set_snapshot(workspace.config, label), workspace.root)


def freshness_policy(config: configuration.Config) -> dg.FreshnessPolicy:
    """When a candidate counts as overdue: Dagster shows a missed night on the asset."""
    return dg.FreshnessPolicy.time_window(
        fail_window=dt.timedelta(hours=config.nightly.late_after_hours)
    )
