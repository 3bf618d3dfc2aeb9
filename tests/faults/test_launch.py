"""Launchers beyond this machine: what they need, what they ask for, and Slurm itself where it is
installed.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import (
    TASKS,
    epochs_done,
    finish,
    free_port,
    kill,
    materialize,
    prepared,
    processes_of,
    step_of,
    wait_until,
)
from ray_cluster import write_inputs

from m3h_core import FittedModel
from m3h_pipeline.config import LauncherConfig
from m3h_pipeline.errors import InputError
from m3h_pipeline.jobs import launchers as launch
from m3h_pipeline.state.steps import produce

WORK = launch.Work(
    ["-m", "m3h_pipeline.jobs.train", "--config", "/mnt/m3h/out/job.json"],
    Path("/mnt/m3h/out"),
    gpus=2,
)
SLURM = ("slurmctld", "slurmd", "munged", "srun")


@pytest.fixture(scope="module")
def mlflow_health() -> Iterator[str]:
    """The one page of an MLflow server that is asked before a launch."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def engine(out: Path, kind: str = "slurm", **more) -> LauncherConfig:
    return LauncherConfig.model_validate({"kind": kind, "storage": str(out), **more})


def test_this_machine_needs_nothing(tmp_path):
    launch.check(LauncherConfig(), tmp_path)


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("", "storage is empty"),
        ("/elsewhere", r"is not within \[launcher\] storage"),
        ("memory://m3h", "an object store can't do"),
        ("nonsense://m3h", "can't be opened"),
    ],
)
def test_storage_is_checked_before_a_launch(tmp_path, monkeypatch, mlflow_health, storage, says):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_health)
    launch.check(engine(tmp_path), tmp_path)
    launch.check(engine(tmp_path, storage=f"file://{tmp_path}"), tmp_path / ".")
    with pytest.raises(InputError, match=says):
        launch.check(engine(tmp_path, storage=storage), tmp_path)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (None, r"set MLFLOW_TRACKING_URI to its http address \(now: sqlite\)"),
        ("http://user:secret@127.0.0.1:5000", "holds a password"),
        ("http://127.0.0.1:9", "does not answer"),
    ],
)
def test_the_mlflow_server_is_checked_before_a_launch(tmp_path, monkeypatch, uri, says):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=says) as error:
        launch.check(engine(tmp_path), tmp_path)
    assert "secret" not in str(error.value)


def test_an_engine_that_is_not_installed_or_not_named_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="needs srun"):
        launch.check(engine(tmp_path), tmp_path)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "m3h\[ray\]"'):
        launch.check(engine(tmp_path, "ray"), tmp_path)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: object())
    with pytest.raises(InputError, match=r"\[launcher.k8s\] claim is empty"):
        launch.check(engine(tmp_path, "k8s", k8s={"image": "hospital/m3h:1"}), tmp_path)


KUBERNETES = LauncherConfig.model_validate(
    {
        "kind": "k8s",
        "storage": "/mnt/m3h",
        "gpus": 2,
        "cpus": 8,
        "memory_gb": 64,
        "k8s": {
            "image": "hospital/m3h:0.1.0",
            "claim": "m3h-data",
            "secrets": ["m3h-mlflow"],
            "pod": {
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            },
        },
    }
)


def test_the_pod_is_valid_and_holds_no_secret(monkeypatch):
    """As dagster-k8s builds it, against the schema of Kubernetes' own API: unknown fields are
    errors.
    """
    pipes = pytest.importorskip(
        "dagster_k8s.pipes", reason='dagster-k8s is not installed: pip install "m3h[k8s]"'
    )
    kubernetes = pytest.importorskip("kubernetes", reason="the package kubernetes is not installed")
    schema = pytest.importorskip(
        "kubernetes_validate", reason="the package kubernetes-validate is not installed"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    body = pipes.build_pod_body(
        pod_name="m3h",
        image=None,
        command=None,
        env_vars={"DAGSTER_PIPES_CONTEXT": "x"},
        base_pod_meta={},
        base_pod_spec=launch.pod_spec(KUBERNETES, WORK),
    )
    pod = kubernetes.client.ApiClient().sanitize_for_serialization(body)
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    schema.validate(pod, schema.latest_version(), strict=True)
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "hospital/m3h:0.1.0"
    assert container["command"] == ["python", *WORK.command]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container["envFrom"] == [{"secretRef": {"name": "m3h-mlflow"}}]
    assert {"name": "DAGSTER_PIPES_CONTEXT", "value": "x"} in container["env"]
    assert {"name": "storage", "mountPath": "/mnt/m3h"} in container["volumeMounts"]
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert pod["spec"]["restartPolicy"] == "Never"
    assert "hush-hush" not in json.dumps(pod)
    broken = json.loads(json.dumps(pod))
    broken["spec"]["containers"][0]["gpu"] = 1
    with pytest.raises(schema.ValidationError):
        schema.validate(broken, schema.latest_version(), strict=True)


def test_ray_is_asked_for_what_was_configured():
    job = launch.ray_job(
        KUBERNETES.model_copy(update={"kind": "ray", "python": "/opt/m3h/bin/python"}), WORK
    )
    assert (
        job["entrypoint"]
        == "/opt/m3h/bin/python -m m3h_pipeline.jobs.train --config /mnt/m3h/out/job.json"
    )
    assert (job["entrypoint_num_gpus"], job["entrypoint_num_cpus"]) == (2, 8)
    assert "MLFLOW_TRACKING_PASSWORD" not in job["runtime_env"]["env_vars"]


def test_what_a_job_ends_with_is_what_the_run_ends_with(tmp_path):
    """The paragraph, not that a process has failed with code 1."""
    out = prepared(tmp_path / "out", embedding={"language": "/nowhere"})
    produce(step_of(out, "inputs"), "given", write_inputs)
    assert materialize(out, "language_embedding").wait(90) == 1
    last = (out / "run.log").read_text().splitlines()[-1]
    assert last == (
        "error: language: checkpoint '/nowhere' is neither a folder nor a hub name such as "
        "owner/model"
    )


# Slurm --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A Slurm cluster of this one machine; yields the environment that names it."""
    missing = [name for name in SLURM if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd is started by root")
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "slurm.conf").write_text(f"""
ClusterName=m3h
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=1024 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
""")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{what}={folder}/munge.{end}" for what, end in _MUNGE.items()]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-L", f"{folder}/slurmctld.log"],
            ["slurmd", "-D", "-L", f"{folder}/slurmd.log"],
        ):
            daemons.append(
                subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
            )
            time.sleep(0.5)
        wait_until(
            lambda: "idle" in command_of(environment, "sinfo", "--noheader"), seconds=30, each=0.3
        )
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(daemons):
            daemon.wait(20)


_MUNGE = {
    "key-file": "key",
    "socket": "sock",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def command_of(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_slurm_accepts_the_request(slurm):
    """Its own dry run; a request that no node can serve is refused by it."""
    settings = LauncherConfig.model_validate({"kind": "slurm", "cpus": 1, "memory_gb": 1})
    work = launch.Work(WORK.command, WORK.to, gpus=0)
    request = launch.srun(settings, work)
    dry = [
        *request[: request.index("srun") + 1],
        "--test-only",
        *request[request.index("srun") + 1 :],
    ]
    assert "to start at" in command_of(slurm, *dry)
    more = LauncherConfig.model_validate({"kind": "slurm", "cpus": 1, "memory_gb": 500})
    request = launch.srun(more, launch.Work(WORK.command, WORK.to, gpus=8))
    assert "--gpus=8" in request
    dry = [
        *request[: request.index("srun") + 1],
        "--test-only",
        *request[request.index("srun") + 1 :],
    ]
    assert "to start at" not in command_of(slurm, *dry)


def test_a_training_runs_under_slurm_is_cancelled_and_goes_on(slurm, tmp_path, mlflow_server):
    launcher = {"kind": "slurm", "storage": str(tmp_path), "cpus": 1, "memory_gb": 1}
    out = prepared(tmp_path / "out", training={"epochs": 60}, launcher=launcher)
    more = {**slurm, "MLFLOW_TRACKING_URI": mlflow_server}
    run = materialize(out, **more)
    wait_until(lambda: epochs_done(out) >= 2 or run.poll() is not None)
    assert run.poll() is None, (out / "run.log").read_text()[-4000:]
    assert "m3h-" in command_of(slurm, "squeue", "--noheader", "-o", "%j")
    kill(run.pid, signal.SIGINT)
    assert run.wait(90) != 0
    wait_until(lambda: not processes_of(out), seconds=30)
    assert command_of(slurm, "squeue", "--noheader") == ""
    state = step_of(out, ".m3h_model.partial") / ".checkpoint" / "0" / "training.safetensors"
    assert state.exists()
    finish(materialize(out, **more), out)
    model = FittedModel.load(step_of(out, "m3h_model") / "model" / "0")
    assert [task.name for task in model.tasks] == [task.name for task in TASKS]
