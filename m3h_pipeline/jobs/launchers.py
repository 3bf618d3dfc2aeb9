"""Where a job runs: one resource, chosen by ``[launcher]`` in m3h.toml.

This machine, or an engine that is there already: Ray, Kubernetes, Slurm. Each through a Pipes
client that somebody else keeps; what is ours is what a job is asked to be (docs/decisions/0014). A
job reads and writes the same paths wherever it runs.
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline import config as configuration
from m3h_pipeline.config import LauncherConfig
from m3h_pipeline.errors import InputError
from m3h_pipeline.errors.endings import explain_exit
from m3h_pipeline.jobs.job import CODE_PARTS, FACTS, last_words
from m3h_pipeline.jobs.remote import check_mlflow, check_storage
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.steps import code_version, make_key

# Quiet libraries: what a job has to say goes through its log.
_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
}
# OpenMP's threads wait for one another awake for a moment, then asleep: on a busy machine they
# would otherwise burn the time of the threads that they wait for. No result depends on it
# (docs/decisions/0018).
WAIT_POLICY = {
    "GOMP_SPINCOUNT": "1000",  # GNU's runtime, which PyTorch's wheels for Linux bring
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's
}
# From a request to end to the kill, for a job to write its state. Slurm's own is KillWait, 30 by
# default.
GRACE_SECONDS = 60
_PACKAGES = {"ray": "dagster_ray", "k8s": "dagster_k8s"}
_NEEDED = {"ray": ("address",), "k8s": ("image", "claim"), "slurm": ()}


@dataclass(frozen=True)
class Work:
    """One job: its command without the interpreter, the folder that it writes, and the GPUs that it
    may use.
    """

    command: list[str]
    to: Path
    gpus: int

    @property
    def name(self) -> str:
        """The same for each attempt at the same folder, so that what an earlier one left can be
        found.
        """
        return f"m3h-{make_key(str(self.to))[:16]}"


def job_environment(settings: LauncherConfig) -> dict[str, str]:
    """The variables that a job is started with, wherever it runs."""
    threads = {"OMP_NUM_THREADS": str(settings.threads)} if settings.threads else {}
    return {**_ENVIRONMENT, **WAIT_POLICY, **threads}


def _local_environment(settings: LauncherConfig) -> dict[str, str]:
    """The same beneath this process's own variables; the number of threads is what m3h.toml
    says.
    """
    wanted = job_environment(settings)
    environment = {**wanted, **os.environ}
    if settings.threads:
        environment["OMP_NUM_THREADS"] = wanted["OMP_NUM_THREADS"]
    return environment


class JobLauncher(dg.ConfigurableResource):
    """Runs ``m3h_pipeline.jobs.<name>`` as a process of its own and reports its log to Dagster
    through Pipes.
    """

    out: str

    def run(
        self, context: dg.AssetExecutionContext, job: str, config: dict[str, Any], to: Path
    ) -> dict[str, Any]:
        """Write ``config`` to ``to/.job.json``, run the job, return its facts; raise what it ended
        with.

        What the job refused, with one paragraph on why, is an `InputError` here too.

        An asset in the pool "gpu" gets the GPUs of ``[launcher]``.
        """
        settings = configuration.load(Path(self.out)).launcher
        check(settings, Path(self.out))
        file = to / ".job.json"
        about = {
            "workers": settings.workers,
            "engine": settings.kind,
            "code": code_version(*CODE_PARTS),
        }
        file.write_text(json.dumps({**config, **about, "to": str(to)}, indent=1))
        gpus = settings.gpus if context.op_def.pool == "gpu" else 0
        command = ["-m", f"m3h_pipeline.jobs.{job}", "--config", str(file)]
        if config.get("arm") == "joint" and settings.processes > 1:
            count = f"--nproc-per-node={settings.processes}"
            command = ["-m", "m3h_pipeline.jobs.torchrun", "--standalone", count, *command]
        work = Work(command, to, gpus)
        message_file = last_words(file)
        message_file.unlink(missing_ok=True)
        try:
            with warnings.catch_warnings():
                # Of a part of Pipes that Dagster itself uses.
                warnings.simplefilter("ignore", dg.PreviewWarning)
                _ENGINES[settings.kind](context.op_execution_context, settings, work)
        except Exception as error:
            if message_file.exists() and (words := message_file.read_text()):
                raise InputError(words) from None
            ended = re.search(r"failed with code (\d+)$", str(error))
            message = explain_exit(int(ended[1])) if ended else None
            if message is not None:
                raise InputError(message) from None
            raise
        file.unlink()
        return json.loads((to / FACTS).read_text())


def check(settings: LauncherConfig, out: Path) -> None:
    """Raise `InputError` where a launcher beyond this machine lacks what it needs, before anything
    is started.
    """
    if settings.kind == "local":
        return
    package = _PACKAGES.get(settings.kind)
    if package and importlib.util.find_spec(package) is None:
        raise InputError(
            f'[launcher] kind = "{settings.kind}" needs more packages: pip install '
            f'"m3h[{settings.kind}]"'
        )
    if settings.kind == "slurm" and shutil.which("srun") is None:
        raise InputError(
            '[launcher] kind = "slurm" needs srun: run m3h where jobs are submitted from'
        )
    engine = getattr(settings, settings.kind)
    for name in _NEEDED[settings.kind]:
        if not getattr(engine, name):
            raise InputError(f"m3h.toml: [launcher.{settings.kind}] {name} is empty")
    check_storage(settings.storage, out)
    check_mlflow(mlflow_uri(out))


_KILLED = (
    "the job was killed. Where nobody did that, this machine ran out of memory: set [launcher] "
    "workers = 1 in m3h.toml, let no other run be at work, or take a machine with more. The next "
    "run goes on where this one stopped"
)

_ASKED = (
    "the job was asked to end by a signal of its own, not through this run. Its state is kept: "
    "the next run goes on where this one stopped"
)
# Of a job on this machine: killed; SIGTERM and SIGINT, as it answers them and before it can.
_ENDED = {"-9": _KILLED, "143": _ASKED, "130": _ASKED, "-15": _ASKED, "-2": _ASKED}


# Engines ------------------------------------------------------------------------------------------


# How a job starts on this machine. In a process group of its own: a terminal's Ctrl-C would
# otherwise reach its workers, which answer with a traceback each, and the job twice; Dagster passes
# it on. And it ends with whoever started it from its first moment on, not only once its imports are
# done.
_START = """
import ctypes, os, runpy, signal, sys
os.setpgid(0, 0)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def _build_local_command(command: list[str]) -> list[str]:
    """The command of a module ("-m", its name, ...) as `_START` runs it; any other as it is."""
    return (
        [sys.executable, "-c", _START, *command[1:]]
        if command[0] == "-m"
        else [sys.executable, *command]
    )


def _local(context: dg.OpExecutionContext, settings: LauncherConfig, work: Work) -> None:
    command = _build_local_command(work.command)
    try:
        client = dg.PipesSubprocessClient(termination_timeout_seconds=GRACE_SECONDS)
        client.run(context=context, command=command, env=_local_environment(settings))
    except Exception as error:
        # The client's own error is not among Dagster's public names.
        for code, why in _ENDED.items():
            if str(error).endswith(f"process failed with code {code}"):
                raise dg.Failure(why) from error
        raise


def _ray(context: dg.OpExecutionContext, settings: LauncherConfig, work: Work) -> None:
    from dagster_ray.core.pipes import PipesRayJobClient

    try:
        client = PipesRayJobClient(address=settings.ray.address)
        client.run(context=context, submit_job_params=ray_job(settings, work))
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster answers at [launcher.ray] address = {settings.ray.address!r}"
        ) from error


def ray_job(settings: LauncherConfig, work: Work) -> Any:
    """What is asked of Ray's job server. Secrets are the nodes' own: a job's environment can be
    read by all of Ray.
    """
    return {
        "entrypoint": shlex.join([settings.python or "python", *work.command]),
        "entrypoint_num_cpus": settings.cpus,
        "entrypoint_num_gpus": work.gpus,
        "entrypoint_memory": settings.memory_gb * 2**30,
        "runtime_env": {
            "env_vars": {
                **job_environment(settings),
                "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS),
            }
        },
        "metadata": {"m3h": work.name},
    }


def _kubernetes(context: dg.OpExecutionContext, settings: LauncherConfig, work: Work) -> None:
    from dagster_k8s import PipesK8sClient

    PipesK8sClient().run(
        context=context,
        namespace=settings.k8s.namespace,
        base_pod_meta={"labels": {"app.kubernetes.io/part-of": "m3h", "m3h/job": work.name}},
        base_pod_spec=pod_spec(settings, work),
    )


def pod_spec(settings: LauncherConfig, work: Work) -> dict[str, Any]:
    """The pod's spec: image, GPUs, shared storage at its own path, environment, and secrets by
    reference.
    """
    k8s = settings.k8s
    gpus = {"nvidia.com/gpu": str(work.gpus)} if work.gpus else {}
    memory = {"memory": f"{settings.memory_gb}Gi"}
    container = {
        "name": "m3h",
        "image": k8s.image,
        "command": [settings.python or "python", *work.command],
        "env": [
            {"name": name, "value": value} for name, value in job_environment(settings).items()
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in k8s.secrets],
        "resources": {
            "requests": {"cpu": str(settings.cpus), **memory, **gpus},
            "limits": {**memory, **gpus},
        },
        "volumeMounts": [
            {"name": "storage", "mountPath": settings.storage.removeprefix("file://")},
            # NCCL and loky pass arrays through it; a container's own is 64 MiB.
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    return {
        **k8s.pod,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "storage", "persistentVolumeClaim": {"claimName": k8s.claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _slurm(context: dg.OpExecutionContext, settings: LauncherConfig, work: Work) -> None:
    """srun as the subprocess of Dagster's own client; Slurm keeps two jobs of one folder apart
    (singleton).
    """
    _cancel_jobs(work.name)  # what a killed run has left
    client = dg.PipesSubprocessClient(
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesFileMessageReader(str(work.to / ".messages")),
        # srun that is told to end kills at once; scancel leaves the job time.
        forward_termination=False,
    )
    try:
        client.run(context=context, command=srun(settings, work), env=_local_environment(settings))
    finally:
        _cancel_jobs(work.name)


def srun(settings: LauncherConfig, work: Work) -> list[str]:
    """The command; srun itself goes with the process that started it, and its job with it."""
    return [
        *("setpriv", "--pdeathsig", "TERM"),
        *(
            "srun",
            f"--job-name={work.name}",
            "--dependency=singleton",
            "--ntasks=1",
            "--kill-on-bad-exit",
        ),
        f"--cpus-per-task={settings.cpus}",
        f"--mem={settings.memory_gb}G",
        *([f"--gpus={work.gpus}"] if work.gpus else []),
        *settings.slurm.options,
        settings.python or sys.executable,
        *work.command,
    ]


def _cancel_jobs(name: str) -> None:
    """Ask Slurm to end the jobs of a name, and wait for it: SIGTERM, and a kill after Slurm's
    KillWait.
    """
    own_jobs = (f"--user={getpass.getuser()}", f"--name={name}")
    subprocess.run(["scancel", "--quiet", *own_jobs], check=False)
    queue = ["squeue", "--noheader", *own_jobs]
    until = time.monotonic() + GRACE_SECONDS
    while (
        subprocess.run(queue, capture_output=True, check=False).stdout.strip()
        and time.monotonic() < until
    ):
        time.sleep(1)


_ENGINES: dict[str, Callable[[dg.OpExecutionContext, LauncherConfig, Work], None]] = {
    "local": _local,
    "ray": _ray,
    "k8s": _kubernetes,
    "slurm": _slurm,
}
