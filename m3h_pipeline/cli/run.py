"""``m3h run``: the whole graph once, in this process, with progress."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.cli.failures import explain_failure
from m3h_pipeline.cli.in_process import configure_console, open_instance
from m3h_pipeline.cli.last_screen import format_run
from m3h_pipeline.cli.out_folder import prepare_run
from m3h_pipeline.errors.endings import RunFailed, run_to_end
from m3h_pipeline.state.layout import snapshot_folder
from m3h_pipeline.state.locks import hold_lock


def run_once(
    out: Path,
    source: str | None,
    path: Path | None,
    size: str | None,
    snapshot: str | None,
    verbose: bool = False,
) -> int:
    """Materialise everything for one snapshot; the exit code is 0 only where every blocking check
    passed.
    """
    return run_to_end(lambda: _run(out.absolute(), source, path, size, snapshot, verbose))


def _run(
    out: Path,
    source: str | None,
    path: Path | None,
    size: str | None,
    snapshot: str | None,
    verbose: bool,
) -> int:
    config = prepare_run(out, source, path, size, snapshot)

    from m3h_pipeline.definitions import MAIN_JOB, defs
    from m3h_pipeline.defs.partitions import add_partition
    from m3h_pipeline.defs.schedules import COMMAND_TAG, RUN_LOCK
    from m3h_pipeline.jobs.launchers import check

    check(config.launcher, out)
    # Shared: the steps' own locks keep two of these apart; the schedule sees that one is going.
    with hold_lock(out / RUN_LOCK, shared=True), open_instance(out) as instance:
        add_partition(instance, config.source.snapshot)
        result = defs.resolve_job_def(MAIN_JOB).execute_in_process(
            instance=instance,
            partition_key=config.source.snapshot,
            raise_on_error=False,
            run_config={"loggers": configure_console(verbose)},
            tags={COMMAND_TAG: "run"},
        )
    if not result.success:
        raise RunFailed(explain_failure(result, snapshot_folder(out, config.source.snapshot)))
    print(format_run(out, result, config.source.snapshot))
    return 0
