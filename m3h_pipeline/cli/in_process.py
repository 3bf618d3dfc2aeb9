"""A job of Dagster in this process, for the commands that run one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


def open_instance() -> dg.DagsterInstance:
    """This out-folder's instance, for a run in this process.

    What its steps print stays on the terminal. Dagster's capture of it would start two processes a
    step, which print a traceback of their own at Ctrl-C.
    """
    import dagster as dg

    captured = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    return dg.DagsterInstance.local_temp(
        os.environ["DAGSTER_HOME"], overrides={"compute_logs": captured}
    )


def configure_console(verbose: bool) -> dict[str, Any]:
    """The run configuration of what a run prints: one line a step, or all that is logged."""
    return {"console": {"config": {"verbose": verbose}}}
