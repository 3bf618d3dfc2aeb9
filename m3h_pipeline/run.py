"""``m3h run``: the whole graph once, in this process, with progress."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.paths import dagster_template
from m3h_pipeline.snapshots import check_label, labels

if TYPE_CHECKING:
    import dagster as dg


def run_once(out: Path, source: str | None, path: Path | None, size: str | None, snapshot: str | None) -> int:
    """Materialise everything for one snapshot; the exit code is 0 only where every blocking check passed."""
    out = out.absolute()
    config = prepare(out, source, path, size, snapshot)
    import dagster as dg

    from m3h_pipeline.definitions import MAIN_JOB, defs
    from m3h_pipeline.launch import check
    from m3h_pipeline.liveness import bury

    check(config.launcher, out)

    with dg.DagsterInstance.get() as instance:
        bury(instance, out)
        instance.add_dynamic_partitions("snapshot", [config.source.snapshot])
        result = defs.resolve_job_def(MAIN_JOB).execute_in_process(
            instance=instance,
            partition_key=config.source.snapshot,
            raise_on_error=False,
            run_config={"loggers": {"console": {}}},
        )
    if not result.success:
        print(f"error: {_why(result)}", file=sys.stderr)
        return 1
    print(_what_to_open(out, result))
    return 0


def prepare(
    out: Path, source: str | None = None, path: Path | None = None, size: str | None = None, snapshot: str | None = None
) -> configuration.Config:
    """Check the choices before anything is written, then set up the out-folder and this process's environment."""
    config = configuration.for_run(out, source, path, size, snapshot)
    opened = configuration.source(config, out)
    configuration.settings(config, opened)
    if snapshot is not None:
        check_label(out, snapshot, opened)
    # Where it was read before, its listing says whether it must be read again.
    if config.source.snapshot not in labels(out):
        opened.check()
    try:
        home = out / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        configuration.save(config, out)
        if not (home / "dagster.yaml").exists():
            shutil.copy(dagster_template(), home / "dagster.yaml")
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror}): choose another folder with --out") from None
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["M3H_OUT"] = str(out)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return config


def _why(result: dg.ExecuteInProcessResult) -> str:
    """The first failure in one paragraph: failed checks by their descriptions, else the step's own message."""
    failed = [
        event.asset_check_evaluation_data for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed
    ]  # fmt: skip
    if failed:
        lines = [
            f"{check.asset_key.to_user_string()}: {check.check_name}: {check.description or 'failed'}"
                 for check in failed]  # fmt: skip
        return "a check failed, so nothing after it was computed and the earlier results stand\n  " + "\n  ".join(lines)
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                return str(data.user_failure_data.description)
            error = data.error
            while error is not None and error.cause is not None:
                error = error.cause
            return f"{event.step_key}: {error.message.strip() if error else 'failed'}"
    return "the run did not finish"


def _what_to_open(out: Path, result: dg.ExecuteInProcessResult) -> str:
    """The last screen: what came out and what to open."""
    facts = {
        materialization.asset_key.to_user_string(): materialization.metadata
        for event in result.all_events
        if event.is_step_materialization and (materialization := event.step_materialization_data.materialization)
    }
    quality, version, cohort = facts["quality"], facts["model_version"], facts["cohort"]
    better = quality["joint better than single-task (interval above 0)"].value
    worse = quality["joint worse than single-task (interval below 0)"].value
    return "\n".join(
        [
            "",
            f"Cohort     {cohort['samples'].value:,} samples of {cohort['subjects'].value:,} patients, "
            f"{quality['tasks'].value} tasks, {quality['claimed'].value} with enough test labels to be claimed",
            f"Learning   joint better than single-task on {better}, worse on {worse} (95% intervals)",
            f"Model      {version['name'].value} version {version['version'].value}, pending review",
            f"Report     {out / 'latest' / 'report.html'}",
            f"Look on    m3h ui --out {out}   (Dagster: http://127.0.0.1:3000, MLflow: http://127.0.0.1:5000)",
        ]
    )
