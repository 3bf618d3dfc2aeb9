"""Runs that died: nobody waits for the place in a pool that one of them held.

Dagster's code server and daemon see to the runs that they have started, as long as they live
themselves. For what is killed with them, or is run without them (`m3h run`), a lock says whether a
run is alive: the system frees it with the process, however that ends.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from m3h_pipeline.state.locks import hold_lock, is_locked

_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@contextmanager
def mark_run_alive(out: Path, run_id: str) -> Generator[None]:
    """Held by each process of a run."""
    with hold_lock(_file(out, run_id), shared=True):
        yield


def fail_dead_runs(instance: dg.DagsterInstance, out: Path) -> list[str]:
    """Report the runs as failed whose processes are gone, and free their places; returns their
    ids.
    """
    dead = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY))
        if _is_dead(_file(out, run.run_id))
    ]
    for run in dead:
        instance.report_run_failed(
            run, "The process of this run was killed. The next run goes on where it stopped."
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    for file in _folder(out).glob("*"):
        if _is_dead(file):
            file.unlink()
    return [run.run_id for run in dead]


def _is_dead(file: Path) -> bool:
    """A run that has not come to its first step yet has no file, and holds no place."""
    return file.exists() and not is_locked(file)


def _file(out: Path, run_id: str) -> Path:
    return _folder(out) / run_id


def _folder(out: Path) -> Path:
    return out / "dagster" / "living"
