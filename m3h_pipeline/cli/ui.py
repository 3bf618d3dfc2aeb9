"""``m3h ui``: Dagster's webserver and daemon and MLflow's server, started and stopped together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from m3h_pipeline.cli.in_process import set_records_right
from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.cli.servers import GRACE_SECONDS, adopt_orphans, end_descendants
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry.tracking import PAGE_VARIABLE
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.opening import open_out_folder
from m3h_pipeline.state.pages import HOST, lock_server, read_last_server, record_server
from m3h_pipeline.state.paths import CONFIG_FILE


def serve(out: Path, port: int | None = None, mlflow_port: int | None = None) -> int:
    """Run the three servers until Ctrl-C or SIGTERM, or until one of them ends by itself.

    Without ports it takes those that the last one had, so that links still lead to it. Raises
    `InputError` where another process serves the out-folder or a port is taken.
    """
    out = out.absolute()
    open_out_folder(out)
    uri = mlflow_uri(out)
    # A server that runs elsewhere is used as it is.
    elsewhere = uri.startswith("http")
    last = read_last_server(out)
    port = port or last.port
    mlflow_port = mlflow_port or last.mlflow_port
    options = {"--port": port} if elsewhere else {"--port": port, "--mlflow-port": mlflow_port}
    with ExitStack() as stack:
        # Before the ports: one that serves this folder already is what holds them, most likely.
        is_known = (out / CONFIG_FILE).exists()
        lock = stack.enter_context(lock_server(out)) if is_known else None
        _check_free(options)
        config = prepare_folder(out)
        lock = lock or stack.enter_context(lock_server(out))
        served = record_server(lock, port, mlflow_port)
        _make_ready(out, config.source.snapshot)
        mlflow_page = uri if elsewhere else served.mlflow_page
        os.environ[PAGE_VARIABLE] = mlflow_page
        pages = f"Dagster  {served.dagster_page}\nMLflow   {mlflow_page}\nCtrl-C stops both."
        return _serve(out, _commands(out, port, mlflow_port), list(options.values()), pages, lock)


def _serve(
    out: Path, commands: list[list[str]], ports: list[int], pages: str, lock: IO[str]
) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A shell that starts a command in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    adopt_orphans()
    supervisor = _start(commands, out, lock)
    try:
        for number in ports:
            _wait_for(number, supervisor)
        if supervisor.poll() is None:
            print(pages, flush=True)
        while supervisor.poll() is None:
            time.sleep(0.5)
        print(f"error: a server ended by itself; see {out / 'ui.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(supervisor)


def _commands(out: Path, port: int, mlflow_port: int) -> list[list[str]]:
    python = [sys.executable, "-m"]
    uri = mlflow_uri(out)
    dagster = [
        [*python, "m3h_pipeline.webserver", "--host", HOST, "--port", str(port)],
        [
            str(Path(sys.executable).with_name("dagster-daemon")),
            "run",
            "-m",
            "m3h_pipeline.definitions",
        ],
    ]
    if uri.startswith("http"):
        return dagster
    return [
        *dagster,
        [
            *[*python, "mlflow", "server", "--host", HOST, "--port", str(mlflow_port)],
            *["--default-artifact-root", (out / "mlflow" / "artifacts").resolve().as_uri()],
            *["--workers", "1"],
        ],
    ]


def _start(commands: list[list[str]], out: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    """The process above the servers, in a session of its own; it holds the out-folder's lock
    too.
    """
    with (out / "ui.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "m3h_pipeline.cli.servers"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
            env={
                **os.environ,
                # Job execution would start nine more processes.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                # Not on the command line: it may hold a password, and all users can list commands.
                "MLFLOW_BACKEND_STORE_URI": mlflow_uri(out),
            },
        )
    assert supervisor.stdin is not None
    supervisor.stdin.write(json.dumps({"commands": commands, "parent": os.getpid()}).encode())
    supervisor.stdin.close()
    return supervisor


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.terminate()
    try:
        supervisor.wait(2 * GRACE_SECONDS + 5)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    # Where it was killed, its servers have become this process's own.
    end_descendants()


def _check_free(options: dict[str, int]) -> None:
    """Each option's port must be free; an `InputError` names those that are not, and free ones."""
    chosen = list(options.values())
    problems: list[str] = []
    advice: list[str] = []
    for option, port in options.items():
        error = _try_port(port)
        if error is None and chosen.count(port) > 1 and option != "--port":
            error = "is asked for twice"
        if error is None:
            continue
        free = _next_free(port, chosen)
        chosen.append(free)
        problems.append(f"port {port} {error}")
        advice.append(f"{option} {free}")
    if problems:
        raise InputError(f"{', and '.join(problems)}: choose another, such as {' '.join(advice)}")


def _try_port(port: int) -> str | None:
    """What keeps a server from this port, None where nothing does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "is for the system's own services"
        except OSError:
            return "is taken"
    return None


def _next_free(port: int, chosen: list[int]) -> int:
    above = range(max(port + 1, 1024), 65536)
    return next((p for p in above if p not in chosen and _try_port(p) is None), 0)


def _wait_for(port: int, supervisor: subprocess.Popen[bytes], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and supervisor.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)


def _make_ready(out: Path, snapshot: str) -> None:
    """Dagster's records are right, and the configured snapshot can be chosen in the UI before the
    first run.
    """
    import dagster as dg

    from m3h_pipeline.defs.partitions import add_partition

    with dg.DagsterInstance.get() as instance:
        set_records_right(instance, out)
        add_partition(instance, snapshot)
