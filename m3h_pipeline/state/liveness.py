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
    under_way = instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY))
    dead_runs = [run for run in under_way if _is_dead(_file(out, run.run_id))]
    for run in dead_runs:
        instance.report_run_failed(
            run, "The process of this run was killed. The next run goes on where it stopped."
        )
    for run_id in _list_place_holders(instance):
        if _has_left_its_place(instance, out, run_id):
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    for file in _folder(out).glob("*"):
        if _is_dead(file):
            file.unlink()
    return [run.run_id for run in dead_runs]


def _list_place_holders(instance: dg.DagsterInstance) -> list[str]:
    """Runs that hold a place in a pool, or wait for one."""
    storage = instance.event_log_storage
    run_ids = set()
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        run_ids |= info.active_run_ids | info.pending_run_ids | info.assigned_run_ids
    return sorted(run_ids)


def _has_left_its_place(instance: dg.DagsterInstance, out: Path, run_id: str) -> bool:
    """Whether nobody is left who would free a run's place.

    Places and runs are records of two databases: a folder that was copied while a run was at work,
    or a kill between the two writes, can leave a place to a run that has ended or is not known.
    """
    file = _file(out, run_id)
    if file.exists():
        return not is_locked(file)
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _is_dead(file: Path) -> bool:
    """A run that has not come to its first step yet has no file, and holds no place."""
    return file.exists() and not is_locked(file)


def _file(out: Path, run_id: str) -> Path:
    return _folder(out) / run_id


def _folder(out: Path) -> Path:
    return out / "dagster" / "living"
