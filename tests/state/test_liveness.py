"""Whose place in a pool is freed: that of a run whose processes are gone, and no other's."""

import shutil

import dagster as dg
import pytest

from m3h_pipeline.state.liveness import fail_dead_runs, mark_run_alive

POOL = "duckdb_write"
STARTED = dg.DagsterRunStatus.STARTED


@dg.op
def nothing() -> None:
    pass


@dg.job
def job() -> None:
    nothing()


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "out" / "dagster").mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(tmp_path / "out" / "dagster")) as made:
        made.event_log_storage.set_concurrency_slots(POOL, 1)
        yield made


def claim_place(instance, run_id: str) -> None:
    claim = instance.event_log_storage.claim_concurrency_slot(POOL, run_id, "step")
    assert claim.is_claimed


def place_holders(instance) -> set[str]:
    return instance.event_log_storage.get_concurrency_info(POOL).active_run_ids


def test_a_killed_run_is_failed_and_its_place_is_free(instance, tmp_path):
    run = instance.create_run_for_job(job, status=STARTED)
    with mark_run_alive(tmp_path / "out", run.run_id):
        claim_place(instance, run.run_id)
        assert fail_dead_runs(instance, tmp_path / "out") == []
        assert place_holders(instance) == {run.run_id}
    assert fail_dead_runs(instance, tmp_path / "out") == [run.run_id]
    assert place_holders(instance) == set()
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_run_before_its_first_step_keeps_its_place(instance, tmp_path):
    run = instance.create_run_for_job(job, status=STARTED)
    claim_place(instance, run.run_id)
    assert fail_dead_runs(instance, tmp_path / "out") == []
    assert place_holders(instance) == {run.run_id}


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_the_place_of_a_run_that_has_ended_is_free(instance, tmp_path, status):
    """It was killed after its end was written and before its place was freed."""
    run = instance.create_run_for_job(job, status=status)
    claim_place(instance, run.run_id)
    assert fail_dead_runs(instance, tmp_path / "out") == []
    assert place_holders(instance) == set()


def test_a_copied_folder_does_not_wait_for_a_run_that_it_does_not_know(instance, tmp_path):
    """Its database of runs was copied before the run began, that of places after."""
    out = tmp_path / "out"
    run_id = "5f2c9a0e-0000-4000-8000-000000000001"
    with mark_run_alive(out, run_id):
        claim_place(instance, run_id)
        copy = tmp_path / "copy"
        shutil.copytree(out, copy)
        fail_dead_runs(instance, out)
        assert place_holders(instance) == {run_id}
        with dg.DagsterInstance.local_temp(str(copy / "dagster")) as copied:
            assert place_holders(copied) == {run_id}
            fail_dead_runs(copied, copy)
            assert place_holders(copied) == set()
        assert place_holders(instance) == {run_id}
