"""What a job's process is started with: the number of threads, and how they wait for one
another.
"""

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from m3h_pipeline.config import LauncherConfig
from m3h_pipeline.jobs import launchers as launch

PROBE = """
import json, os, sys
import torch

names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
facts = {name: os.environ.get(name) for name in names}
with open(sys.argv[1], "w") as stream:
    json.dump(facts | {"torch": torch.get_num_threads()}, stream)
"""


def start_probe(settings: LauncherConfig, folder: Path) -> dict[str, str | int | None]:
    """Start a process as the local launcher starts a job; returns what it sees."""
    facts = folder / "facts.json"
    work = launch.Work(["-c", PROBE, str(facts)], folder, gpus=0)

    @dg.op
    def started(context: dg.OpExecutionContext) -> None:
        launch._local(context, settings, work)

    @dg.job
    def probe() -> None:
        started()

    assert probe.execute_in_process().success
    return json.loads(facts.read_text())


@pytest.mark.parametrize(("threads", "seen"), [(0, 1), (2, 2)])
def test_a_job_has_the_threads_of_the_configuration(tmp_path, monkeypatch, threads, seen):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    facts = start_probe(LauncherConfig(threads=threads), tmp_path)
    # PyTorch never takes more than there are cores.
    assert facts["torch"] == min(seen, os.cpu_count() or 1)
    assert facts["OMP_NUM_THREADS"] == str(seen)
    assert facts["GOMP_SPINCOUNT"] == launch.WAIT_POLICY["GOMP_SPINCOUNT"]
    assert facts["KMP_BLOCKTIME"] == "0"


def test_the_wait_policy_of_the_user_goes_before_ours(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert launch._local_environment(LauncherConfig())["GOMP_SPINCOUNT"] == "7"


def test_jobs_on_other_machines_are_started_the_same_way():
    settings = LauncherConfig(threads=6)
    work = launch.Work(["-m", "m3h_pipeline.jobs.train"], Path("/mnt/m3h/out"), gpus=0)
    ray = launch.ray_job(settings, work)["runtime_env"]["env_vars"]
    (container,) = launch.pod_spec(settings, work)["containers"]
    pod = {variable["name"]: variable["value"] for variable in container["env"]}
    for environment in (ray, pod):
        assert environment["OMP_NUM_THREADS"] == "6"
        assert environment["GOMP_SPINCOUNT"] == launch.WAIT_POLICY["GOMP_SPINCOUNT"]
