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


def test_a_label_among_the_codes_stops_the_run_by_its_name(tmp_path):
    """Who dies is given a drug on the first day that nobody else is given."""
    tables = hospital(240)
    died = {
        row["sample_id"] for row in tables["labels"] if (row["task"], row["value"]) == ("death", 1)
    }
    tables["codes"] = [
        {
            "stay_id": row["stay_id"],
            "time": row["admit_time"],
            "kind": "drug_given",
            "code": "comfort/morphine" if row["stay_id"] in died else "usual/aspirin",
        }
        for row in tables["samples"]
    ]
    source = write(tmp_path / "source", tables)
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--source", "tables"]
    command += ["--path", str(source), "--out", str(tmp_path / "out"), "--snapshot", "2026-01-01"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "death: drug_given/comfort/morphine: recency" in done.stderr
    assert '"cohort revealing_inputs death drug_given/' in done.stderr
    assert not (tmp_path / "out" / "snapshots" / "2026-01-01" / "m3h_model").exists()
