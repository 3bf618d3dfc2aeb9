"""No password stands where every local user can read it: in a process list."""

import os
import subprocess
import sys

import psutil
import pytest
from webserver import free_port

PASSWORD = "correct-horse-battery"


def test_no_process_of_m3h_ui_names_the_password_of_mlflow_s_store(postgres, tmp_path):
    _, mlflow = postgres
    uri = mlflow.replace("postgres@", f"postgres:{PASSWORD}@")
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "ui", "--out", str(tmp_path / "out"),
               "--port", str(free_port()), "--mlflow-port", str(free_port())]  # fmt: skip
    environment = dict(os.environ) | {"MLFLOW_TRACKING_URI": uri}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            if "Dagster" not in process.stdout.readline():
                pytest.fail((tmp_path / "out" / "ui.log").read_text())
            family = psutil.Process(process.pid).children(recursive=True)
            commands = [" ".join(member.cmdline()) for member in family]
        finally:
            process.terminate()
    assert any("mlflow" in line for line in commands)
    assert not any(PASSWORD in line for line in commands)
