"""A job of Dagster in this process, for the commands that run one."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


@contextmanager
def open_instance(out: Path) -> Generator[dg.DagsterInstance]:
    """This out-folder's instance, for a run in this process, with its records set right.

    What its steps print stays on the terminal. Dagster's capture of it would start two processes a
    step, which print a traceback of their own at Ctrl-C.
    """
    import dagster as dg

    captured = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    home = os.environ["DAGSTER_HOME"]
    with dg.DagsterInstance.local_temp(home, overrides={"compute_logs": captured}) as instance:
        set_records_right(instance, out)
        yield instance


def set_records_right(instance: dg.DagsterInstance, out: Path) -> None:
    """What a kill, or a clock that was set back, left in Dagster's records keeps nobody waiting."""
    from m3h_pipeline.state.liveness import fail_dead_runs
    from m3h_pipeline.state.ticks import date_back_ticks

    fail_dead_runs(instance, out)
    date_back_ticks(instance)


def configure_console(verbose: bool) -> dict[str, Any]:
    """The run configuration of what a run prints: one line a step, or all that is logged."""
    return {"console": {"config": {"verbose": verbose}}}
