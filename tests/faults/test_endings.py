"""Ctrl-C, SIGTERM, a locked database and a full disk: one paragraph, no traceback, and a state to
go on from.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from launched import (
    epochs_done,
    finish,
    kill,
    materialize,
    prepared,
    processes_of,
    step_of,
    wait_until,
)

from m3h_pipeline.errors.endings import PATIENCE_VARIABLE, explain

NEVER_SHOWN = (
    "Traceback",
    "DagsterExecutionInterrupted",
    "watch_orphans",
    "sqlalche",
    "failed with code",
)
SHOWN = {"AS_M3H_RUN": "1"}


@pytest.fixture
def out(tmp_path) -> Iterator[Path]:
    out = prepared(tmp_path / "out", training={"epochs": 60}, launcher={"workers": 2})
    yield out
    for pid in processes_of(out):  # where a test has failed
        kill(pid)


def error_of(run: subprocess.Popen[str], out: Path, code: int) -> str:
    """The last line of a run that must end with an exit code; the log is emptied for the next
    one.
    """
    ended = run.wait(120)
    log = out / "run.log"
    text = log.read_text()
    log.write_text("")
    assert ended == code, text[-4000:]
    for word in NEVER_SHOWN:
        assert word not in text, text[-4000:]
    return text.splitlines()[-1]


def locked(database: Path) -> sqlite3.Connection:
    """A connection that keeps everybody else from writing and reading."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_a_training_that_is_interrupted_or_locked_out_says_so_and_goes_on(out):
    run = materialize(out, **SHOWN)
    wait_until(lambda: epochs_done(out) >= 1 or run.poll() is not None)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal sends it: to the job too
    assert error_of(run, out, 130).startswith("stopped by Ctrl-C. What was finished is kept")
    run = materialize(out, **SHOWN)
    done = epochs_done(out)
    wait_until(lambda: epochs_done(out) > done or run.poll() is not None)
    kill(run.pid, signal.SIGTERM)
    assert error_of(run, out, 143).startswith("stopped by SIGTERM. What was finished is kept")
    assert not step_of(out, "m3h_model").exists()
    database = out / "mlflow" / "mlflow.db"
    with closing(locked(database)):
        run = materialize(out, **SHOWN, **{PATIENCE_VARIABLE: "0.5"})
        message_shown = error_of(run, out, 1)
    assert message_shown.startswith("error: a database stayed locked by another program: ")
    assert "mlflow.db" in message_shown
    with closing(locked(database)) as lock:
        run = materialize(out, **SHOWN)
        wait_until(
            lambda: (
                list(step_of(out, ".m3h_model.partial").glob(".job.json")) or run.poll() is not None
            )
        )
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(8)
        lock.execute("ROLLBACK")
    finish(run, out)
    assert step_of(out, "m3h_model").exists()


def test_the_workers_of_a_job_that_is_interrupted_print_nothing(out):
    run = materialize(out, "tree_models", **SHOWN)
    wait_until(
        lambda: (
            any("loky" in command for command in processes_of(out).values())
            or run.poll() is not None
        )
    )
    os.killpg(run.pid, signal.SIGINT)
    assert error_of(run, out, 130).startswith("stopped by Ctrl-C. ")
    wait_until(lambda: not processes_of(out), seconds=20)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(small_disk, tmp_path):
    out = prepared(small_disk / "out", training={"epochs": 5})
    (out / "run.log").symlink_to(tmp_path / "run.log")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(24 << 20))
    run = materialize(out, **SHOWN)
    assert error_of(run, out, 1).startswith("error: the disk is full, or a quota is used up: ")
    filler.unlink()
    finish(materialize(out, **SHOWN), out)
    assert step_of(out, "m3h_model").exists()


@pytest.mark.parametrize(
    ("message", "paragraph"),
    [
        (
            "duckdb.IOException: IO Error: Could not write file: No space left on device",
            "the disk is full",
        ),
        ("polars: ComputeError: Disk quota exceeded (os error 122)", "the disk is full"),
        ("(sqlite3.OperationalError) database is locked", "a database stayed locked"),
    ],
)
def test_the_words_of_the_libraries_are_known(message, paragraph):
    message_shown = explain(f"RuntimeError: something\n{message}\n")
    assert message_shown is not None
    assert message_shown.startswith(paragraph)
    assert message in message_shown


def test_any_other_error_is_left_as_it_is():
    assert explain("KeyError: 'disk'") is None


STUCK = """
import threading, time
from m3h_pipeline.jobs import job
job.EXIT_SECONDS = 1.0
with job.run_job():
    # As the manager of a pool of processes whose workers wait for work.
    threading.Thread(target=time.sleep, args=(600,)).start()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_job_ends_though_a_pool_of_its_own_does_not(tmp_path):
    config = tmp_path / "job.json"
    config.write_text(json.dumps({"to": str(tmp_path / "result")}))
    command = [sys.executable, "-c", STUCK, "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
