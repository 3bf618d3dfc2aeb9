"""fit_many: one wide model, the same models."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS, make_cohort

from m3h_core import TaskSpec, fit, fit_many
from m3h_core.metrics import primary_metric
from m3h_core.training import bank

CLUSTERING = next(task for task in TASKS if task.problem == "clustering")
JOBS = [[task] for task in TASKS] + [
    list(SUPERVISED[:2]),
    list(SUPERVISED[1:3]),
    [SUPERVISED[0], SUPERVISED[2]],
    list(TASKS),
    [SUPERVISED[0], CLUSTERING],
    [SUPERVISED[1], CLUSTERING],
]


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()


@pytest.mark.slow(15)
def test_equals_looped_fits_in_float64(cohort):
    """A fixed number of steps, so that both see the same ones: what remains is the order of
    sums.
    """
    config = replace(SMALL, precision="float64", epochs=4, patience=99)
    configs = [
        config,
        replace(config, seed=3),
        replace(config, hidden=(16,), attention=False),
        replace(config, normalization="stable"),
    ]
    jobs = [(tasks, c) for tasks in JOBS for c in configs]
    for (tasks, c), model in zip(jobs, fit_many(cohort, jobs), strict=True):
        alone = fit(cohort, tasks, c)
        assert model.config == c
        assert model.tasks == alone.tasks
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(model.model.state_dict()[name], value, atol=1e-9, rtol=1e-7)


def test_each_model_stops_by_itself(cohort, monkeypatch):
    monkeypatch.setattr(bank, "CHUNK_BYTES_CPU", 10**9)  # all in one wide model
    config = replace(SMALL, precision="float64", epochs=40, patience=3, learning_rate=0.02)
    tasks = [task for task in SUPERVISED if task.problem != "multiclass"]
    done = []
    models = fit_many(
        cohort, [([task], config) for task in tasks], on_progress=lambda d, n: done.append((d, n))
    )
    assert done[-1] == (3, 3)
    assert len(done) > 1
    for task, model in zip(tasks, models, strict=True):
        alone = fit(cohort, [task], config).predict(cohort)[task.name]
        np.testing.assert_allclose(model.predict(cohort)[task.name], alone, atol=1e-6)


@pytest.mark.slow(3)
def test_models_that_cluster_stop_by_themselves(cohort, monkeypatch):
    monkeypatch.setattr(bank, "CHUNK_BYTES_CPU", 10**9)
    config = replace(
        SMALL, precision="float64", epochs=40, patience=2, learning_rate=0.02, cluster_start=4
    )
    jobs = [[task, CLUSTERING] for task in SUPERVISED if task.problem != "multiclass"]
    stops = []
    models = fit_many(
        cohort, [(job, config) for job in jobs], on_progress=lambda done, _: stops.append(done)
    )
    assert len(stops) > 1
    for job, model in zip(jobs, models, strict=True):
        alone = fit(cohort, job, config).predict(cohort)
        for name, value in model.predict(cohort).items():
            np.testing.assert_allclose(value, alone[name], atol=1e-6)


def test_metrics_in_float32_are_those_of_looped_fits(cohort):
    for task, model in zip(
        SUPERVISED, fit_many(cohort, [([t], SMALL) for t in SUPERVISED]), strict=True
    ):
        alone = fit(cohort, [task], SMALL)
        a, b = (primary_metric(cohort, task, m.predict(cohort)[task.name]) for m in (model, alone))
        assert a == pytest.approx(b, abs=0.02)


def test_chunks_do_not_change_the_models(cohort, monkeypatch):
    jobs = [([task], replace(SMALL, precision="float64")) for task in SUPERVISED]
    wide = fit_many(cohort, jobs)
    monkeypatch.setattr(bank, "CHUNK_BYTES_CPU", 1)
    for a, b in zip(wide, fit_many(cohort, jobs), strict=True):
        for name, value in a.predict(cohort).items():
            np.testing.assert_allclose(b.predict(cohort)[name], value, atol=1e-6)


@pytest.mark.slow(2)
def test_a_kill_loses_at_most_the_chunk_it_was_in(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "CHUNK_BYTES_CPU", 1)
    jobs = [([task], SMALL) for task in TASKS]

    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        fit_many(cohort, jobs, on_progress=kill, resume=tmp_path)
    kept = len(list(tmp_path.iterdir()))
    assert kept >= 2
    trained = []
    original = bank.Trainer.run
    monkeypatch.setattr(bank.Trainer, "run", lambda self: (trained.append(self), original(self))[1])
    resumed = fit_many(cohort, jobs, resume=tmp_path)
    assert len(trained) == len(jobs) - kept
    for model, again in zip(fit_many(cohort, jobs), resumed, strict=True):
        for name, value in model.predict(cohort).items():
            np.testing.assert_array_equal(again.predict(cohort)[name], value)


def test_devices_share_the_chunks_and_give_the_same_models(cohort):
    """Two names of the one device that every machine has; on GPUs it was never tried."""
    jobs = [([task], replace(SMALL, precision="float64")) for task in SUPERVISED]
    spread = fit_many(cohort, jobs, devices=["cpu:0", "cpu:1"])
    for a, b in zip(fit_many(cohort, jobs), spread, strict=True):
        assert a.config == b.config
        for name, value in a.predict(cohort).items():
            np.testing.assert_allclose(b.predict(cohort)[name], value, atol=1e-6)


def test_every_device_is_used(cohort):
    """One that is not there is asked for, by a process of its own."""
    jobs = [([task], SMALL) for task in SUPERVISED]
    for devices in (["cpu:0", "cuda:99"], ["cuda:99", "cpu:0"]):
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|cuda"):
            fit_many(cohort, jobs, devices=devices)


def test_by_default_models_go_to_all_visible_gpus(cohort, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    ours = bank.Bank(cohort, TASKS, workers=2)
    assert ours.places([SMALL, SMALL]) == [torch.device("cuda", i) for i in range(3)]
    assert ours.places([replace(SMALL, device="cpu")]) == [torch.device("cpu")] * 2
    assert ours.places([replace(SMALL, device="cuda:1")]) == [None]


def test_two_tasks_of_one_name_are_refused(cohort):
    with pytest.raises(ValueError, match="two different tasks"):
        fit_many(cohort, [([SUPERVISED[0]], SMALL), ([TaskSpec("death", "regression")], SMALL)])
    assert fit_many(cohort, []) == []


_PARENT = """
import os, signal, sys
from joblib import Parallel, delayed
from m3h_core.workers import bound_to_this_process
import time

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    Parallel(n_jobs=2, **bound_to_this_process())(delayed(work)() for _ in range(2))
"""


def test_workers_leave_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Where nobody waits for orphans, one that has ended stays as a zombie.
    return (
        subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        ).stdout[:1]
        != "Z"
    )
