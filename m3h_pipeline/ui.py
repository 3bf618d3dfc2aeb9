"""``m3h ui``: Dagster's webserver and daemon and MLflow's server, started and stopped together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.run import prepare
from m3h_pipeline.tracking import PAGE_VARIABLE

_HOST = "127.0.0.1"
_GRACE_SECONDS = 15


def serve(out: Path, port: int, mlflow_port: int) -> int:
    """Run the three servers until Ctrl-C or SIGTERM, or until one of them ends by itself."""
    out = out.absolute()
    uri = configuration.mlflow_uri(out)
    # A server that runs elsewhere is used as it is.
    elsewhere = uri.startswith("http")
    ports = {port: "--port"} if elsewhere else {port: "--port", mlflow_port: "--mlflow-port"}
    for number, option in ports.items():
        _check_free(number, option)
    config = prepare(out)
    _make_ready(out, config.source.snapshot)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A shell that starts a command in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mlflow_page = uri if elsewhere else f"http://{_HOST}:{mlflow_port}"
    os.environ[PAGE_VARIABLE] = mlflow_page
    servers: list[subprocess.Popen[bytes]] = []
    try:
        servers += [_start(command, out) for command in _commands(out, port, mlflow_port)]
        for number in ports:
            _wait_for(number, servers)
        print(f"Dagster  http://{_HOST}:{port}\nMLflow   {mlflow_page}\nCtrl-C stops both.", flush=True)
        while all(server.poll() is None for server in servers):
            time.sleep(0.5)
        print(f"error: a server ended by itself; see {out / 'ui.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(servers)


def _commands(out: Path, port: int, mlflow_port: int) -> list[list[str]]:
    python = [sys.executable, "-m"]
    code = ["-m", "m3h_pipeline.definitions"]
    uri = configuration.mlflow_uri(out)
    dagster = [
        [*python, "dagster_webserver", *code, "-h", _HOST, "-p", str(port)],
        [str(Path(sys.executable).with_name("dagster-daemon")), "run", *code],
    ]
    if uri.startswith("http"):
        return dagster
    return [
        *dagster,
        [*python, "mlflow", "server", "--host", _HOST, "--port", str(mlflow_port), "--backend-store-uri", uri,
         "--default-artifact-root", (out / "mlflow" / "artifacts").as_uri(), "--workers", "1"],
    ]  # fmt: skip


def _start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Each in its own session, so that stopping it stops its workers."""
    with (out / "ui.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Job execution would start nine more processes.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )


def _stop(servers: list[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        _signal(server, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for server in servers:
        try:
            server.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(server, signal.SIGKILL)


def _signal(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return


def _check_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            raise InputError(f"port {port} is taken: choose another with {option}") from None


def _wait_for(port: int, servers: list[subprocess.Popen[bytes]], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(server.poll() is None for server in servers):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(0.2)


def _make_ready(out: Path, snapshot: str) -> None:
    """No dead run holds a place in a pool; the configured snapshot can be chosen in the UI before the first run."""
    import dagster as dg

    from m3h_pipeline.liveness import bury

    with dg.DagsterInstance.get() as instance:
        bury(instance, out)
        instance.add_dynamic_partitions("snapshot", [snapshot])
