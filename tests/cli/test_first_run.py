"""The first run of an out-folder, by the command itself: interrupted while it reads, then stopped
by a check.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from tables_folder import hospital, write

pytestmark = pytest.mark.slow(20)


def test_a_first_run_that_is_interrupted_and_then_fails_a_check_names_the_file(tmp_path):
    """A third of the stays ends before it begins, and ``latest/`` isn't there yet."""
    tables = hospital(60)
    for row in tables["samples"][::3]:
        row["discharge_time"] = "2023-01-01 08:00:00"
    source = write(tmp_path / "source", tables)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--source", "tables"]
    command += ["--path", str(source), "--out", str(out), "--snapshot", "2026-01-01"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 90
    while not (out / "snapshots").exists() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, message = run.communicate(timeout=120)
    assert run.returncode == 130, message
    assert message.splitlines()[-1].startswith("stopped by Ctrl-C. What was finished is kept")
    assert "Traceback" not in message
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    file = out / "snapshots" / "2026-01-01" / "valid_samples" / "quarantine.parquet"
    assert done.stderr.splitlines()[-1].endswith(f"rows in quarantine, with their reasons: {file}")
    assert pl.read_parquet(file).height == 20
