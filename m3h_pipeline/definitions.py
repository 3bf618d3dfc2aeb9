"""What Dagster loads: every asset of ``defs/``, the main job, and the resources they share."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from m3h_pipeline import defs as stages
from m3h_pipeline.defs.io_manager import step_io_manager
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.progress import progress_logger
from m3h_pipeline.defs.resources import Workspace, bind_to_out
from m3h_pipeline.defs.schedules import build_nightly_schedule
from m3h_pipeline.defs.sensors import failure_sensor, review_sensor
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.state.permissions import set_private_umask

MAIN_JOB = "main"
TIM_JOB = "task_interaction"
SCORE_JOB = "score"


def build_definitions(
    resources: Mapping[str, object] | None = None,
    # A process a step would cost 1.5 to 2 s each; the heavy steps are processes of their own anyway
    # (benchmarks/orchestration.py).
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """All definitions; ``resources`` replaces some of them, and ``executor`` the one that runs
    steps, for tests.
    """
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(stages),
        schedules=[build_nightly_schedule(MAIN_JOB)],
        sensors=[review_sensor, failure_sensor],
        jobs=[
            dg.define_asset_job(
                MAIN_JOB,
                dg.AssetSelection.all(),
                partitions_def=snapshots,
                # dagster.yaml lets one run with this tag go at a time.
                tags={"m3h/night": "main"},
                description=(
                    "From the hospital's files to a report and a model version that waits for "
                    "review."
                ),
            ),
            dg.define_asset_job(
                TIM_JOB,
                dg.AssetSelection.assets("tim_report"),
                partitions_def=snapshots,
                description=(
                    "Task interaction alone, of a snapshot whose models are trained: with another "
                    "[tim] section in m3h.toml, or with more models than a night has time for."
                ),
            ),
            dg.define_asset_job(
                SCORE_JOB,
                dg.AssetSelection.assets("scores", "monitoring"),
                partitions_def=snapshots,
                description=(
                    "The champion's scores of a snapshot that was run, and what has changed since "
                    "training."
                ),
            ),
        ],
        resources={
            "workspace": bind_to_out(Workspace),
            "launcher": bind_to_out(JobLauncher),
            "io_manager": step_io_manager,
            **(resources or {}),
        },
        executor=executor,
        loggers={"console": progress_logger},
    )


# The processes in which Dagster loads this module are those that write: its code servers and its
# runs.
set_private_umask()
defs = build_definitions()
