"""`m3h ui` and the process above its servers, killed: nothing of theirs stays, and the next start
works.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from launched import prepared, processes_of, wait_until
from webserver import Dagster, free_port

from m3h_pipeline.registry import tracking
from m3h_pipeline.state.pages import is_served, read_last_server

_SECONDS = 20


@pytest.fixture
def out(tmp_path):
    out = prepared(tmp_path / "out")
    yield out
    for pid in processes_of(out):  # where a test has failed
        os.kill(pid, signal.SIGKILL)


def start(out: Path, *options: object) -> subprocess.Popen[str]:
    """`m3h ui`, once it says where its pages are."""
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "ui", "--out", out, *options]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("Dagster"), (out / "ui.log").read_text()
    return process


def supervisor_of(process: subprocess.Popen[str]) -> psutil.Process:
    (child,) = psutil.Process(process.pid).children()
    return child


def test_nothing_outlives_a_kill_and_the_ports_are_remembered(out):
    port = free_port()
    mlflow_port = free_port()
    ui = start(out, "--port", port, "--mlflow-port", mlflow_port)
    run = Dagster(port).launch("__ASSET_JOB", "2026-01-01")
    wait_until((out / "dagster" / "living" / run).exists)
    assert len(processes_of(out)) > 6
    ui.kill()
    ui.wait()
    wait_until(lambda: not processes_of(out), _SECONDS)
    # The lock goes with the last process, which may be gone from the list a moment before.
    wait_until(lambda: not is_served(out), _SECONDS)

    # Links of a run by `m3h run` lead to where MLflow was served, and will be again.
    assert tracking.find_page(out) == f"http://127.0.0.1:{mlflow_port}"
    again = start(out)
    assert (read_last_server(out).port, read_last_server(out).mlflow_port) == (port, mlflow_port)
    assert Dagster(port).status(run) == "FAILURE"

    supervisor_of(again).kill()
    assert again.wait(_SECONDS) == 1
    assert "a server ended by itself" in again.stderr.read()
    assert not processes_of(out)
