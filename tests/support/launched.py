"""An out-folder whose cohort is there, so that its training can be launched by Dagster, killed and
launched again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from m3h_core import Cohort, TaskSpec
from m3h_pipeline import config as configuration
from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.state.steps import produce

SNAPSHOT = configuration.DEMO_SNAPSHOT
TASKS = [
    TaskSpec("sepsis", "binary"),
    TaskSpec("los", "regression", unit="days"),
    TaskSpec("shock", "binary"),
]


def synthetic(n: int = 3000) -> Cohort:
    """Three tasks that share a cause."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    labels = {
        "sepsis": (x[:, 0] + x[:, 5] + rng.logistic(size=n) > 0.5).astype(float),
        "los": 5 + x[:, 1] + x[:, 5] + rng.normal(size=n),
        "shock": (x[:, 2] + x[:, 5] + rng.logistic(size=n) > 0.5).astype(float),
    }
    split = rng.choice(4, n, p=[0.6, 0.15, 0.1, 0.15])
    all_labelled = {name: np.ones(n, bool) for name in labels}
    return Cohort(
        [str(i) for i in range(n)], split, {"x": x}, {"x": np.ones(n, bool)}, labels, all_labelled
    )


def prepared(out: Path, **sections: dict[str, Any]) -> Path:
    """An out-folder with the step ``cohort``; ``sections`` of m3h.toml that differ from the tiny
    demo's.
    """
    before = dict(os.environ)
    prepare_folder(out, size="tiny")
    os.environ.clear()
    os.environ.update(before)
    settings = configuration.load(out).model_dump()
    for name, values in sections.items():
        settings[name] |= values
    configuration.save(configuration.Config.model_validate(settings), out)

    def build(to: Path) -> dict[str, Any]:
        synthetic().save(to)
        write_json(to / "tasks.json", [task.to_dict() for task in TASKS])
        return {}

    produce(step_of(out, "cohort"), "given", build)
    return out


def step_of(out: Path, name: str) -> Path:
    return out / "snapshots" / SNAPSHOT / name


def environment(out: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "M3H_OUT": str(out), "DAGSTER_HOME": str(out / "dagster"), **more}


def materialize(out: Path, asset: str = "m3h_model", **more: str) -> subprocess.Popen[str]:
    """One asset, by Dagster's own command line, as a process that leads a group of its own."""
    command = [sys.executable, "-c", _SCRIPT, asset, SNAPSHOT]
    log = (out / "run.log").open("a")
    return subprocess.Popen(
        command,
        env=environment(out, **more),
        stdout=log,
        stderr=log,
        text=True,
        start_new_session=True,
    )


# As `m3h run` does it, for one asset.
_SCRIPT = """
import os, sys
import dagster as dg
from pathlib import Path
from m3h_pipeline.definitions import defs
from m3h_pipeline.errors.endings import RunFailed, run_to_end, wait_for_databases
from m3h_pipeline.cli.failures import explain_failure
from m3h_pipeline.cli.in_process import open_instance
asset, snapshot = sys.argv[1:]
out = Path(os.environ["M3H_OUT"])
# What `m3h run` shows, or all that Dagster logs.
quiet = {"loggers": {"console": {"config": {"verbose": False}}}}
config = quiet if "AS_M3H_RUN" in os.environ else {}

def run():
    with open_instance(out) as instance:
        instance.add_dynamic_partitions("snapshot", [snapshot])
        job = defs.resolve_implicit_job_def_def_for_assets([dg.AssetKey(asset)])
        done = job.get_subset(asset_selection={dg.AssetKey(asset)}).execute_in_process(
            instance=instance, partition_key=snapshot, raise_on_error=False, run_config=config)
    if not done.success:
        raise RunFailed(explain_failure(done, out / "snapshots" / snapshot))
    return 0

wait_for_databases()
sys.exit(run_to_end(run))
"""


def finish(run: subprocess.Popen[str], out: Path) -> None:
    """Wait for a run that must succeed."""
    assert run.wait(200) == 0, (out / "run.log").read_text()[-4000:]


def weights(out: Path, step: str = "m3h_model") -> dict[str, np.ndarray]:
    """Those of the only model: the cohort has no folds."""
    return load_file(step_of(out, step) / "model" / "0" / "model.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def processes_of(out: Path) -> dict[int, str]:
    """Every living process of which the command line or the environment names the out-folder: pid
    -> command line.
    """
    result = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            words = command.encode() + (entry / "environ").read_bytes()
            if str(out).encode() in words and state != "Z" and int(entry.name) != os.getpid():
                result[int(entry.name)] = command
    return result


def worker_of(out: Path, job: str = "jobs.train") -> int | None:
    """The pid of the job that runs for an out-folder."""
    return next((pid for pid, command in processes_of(out).items() if job in command), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve_mlflow(folder: Path) -> Iterator[str]:
    """A real MLflow server; yields its address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    more = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | more, stdout=log, stderr=log, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{uri}/health") or server.poll() is not None, each=0.3)
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def _answers(page: str) -> bool:
    try:
        urllib.request.urlopen(page, timeout=1).close()
        return True
    except OSError:
        return False


def wait_until(what: Callable[[], Any], seconds: float = 90, each: float = 0.02) -> Any:
    """What it returns as soon as that is true."""
    until = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < until, f"{what} did not happen"
        time.sleep(each)
    return result


def epochs_done(out: Path) -> int:
    """Epochs that the training under way has finished, by the file of its curves; a kill may have
    some done twice.
    """
    curves = step_of(out, ".m3h_model.partial") / ".curves.jsonl"
    lines = curves.read_text().splitlines(keepends=True) if curves.exists() else []
    return max((json.loads(line)["epoch"] + 1 for line in lines if line.endswith("}\n")), default=0)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
