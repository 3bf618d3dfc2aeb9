"""Two processes that train one model: they agree with one, rank 0 alone reports, and one that dies
is noticed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from launched import (
    epochs_done,
    finish,
    kill,
    materialize,
    prepared,
    processes_of,
    same,
    step_of,
    wait_until,
    weights,
)
from safetensors.numpy import load_file

from m3h_pipeline.registry import tracking
from m3h_pipeline.state.mlflow_store import mlflow_uri

# Every problem class, clusters among them, in float64 so that only the order of sums can differ.
COMPARED = """
import os, sys, json
import torch.distributed as dist
from dataclasses import replace
from synthetic import SMALL, TASKS, make_cohort
from m3h_core import fit
distributed = "WORLD_SIZE" in os.environ
if distributed:
    dist.init_process_group("gloo")
told = []
for weighting in ("equal", "uncertainty"):
    config = replace(SMALL, weighting=weighting, epochs=10, modality_dropout=0.1)
    config = replace(config, precision="float64")
    fit(make_cohort(), TASKS, config, on_epoch=told.append, distributed=distributed)
if not distributed or dist.get_rank() == 0:
    print(json.dumps(told))
"""
UNBROKEN = """
import sys
import torch.distributed as dist
from launched import TASKS, synthetic
from m3h_core import fit
from m3h_pipeline.jobs.settings import fit_config
dist.init_process_group("gloo")
config = fit_config({"training": {"seed": 0, "epochs": 60}, "model": {}})
model = fit(synthetic(), TASKS, config, distributed=True)
if dist.get_rank() == 0:
    model.save(sys.argv[1])
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def script(file: Path, code: str, *words: object, launcher: Sequence[str] = ()) -> str:
    file.write_text(code)
    support = Path(__file__).parents[1] / "support"
    path = os.pathsep.join([str(support), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, str(file), *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_agree_with_one(tmp_path):
    """The same global batches give the same losses, in every epoch and task."""
    alone, together = (
        json.loads(script(tmp_path / "script.py", COMPARED, launcher=launcher))
        for launcher in ([], TORCHRUN)
    )
    assert len(alone) == len(together) == 20
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-7, equal_nan=True)


def rank(out: Path, number: int) -> int | None:
    """The pid of a rank of the training under way."""
    for pid, command in processes_of(out).items():
        if "jobs.train" in command and "torchrun" not in command:
            words = Path(f"/proc/{pid}/environ").read_bytes()
            if re.search(rb"(^|\0)RANK=%d\0" % number, words):
                return pid
    return None


def test_a_rank_that_dies_ends_the_job_and_the_next_run_goes_on(tmp_path):
    out = prepared(tmp_path / "out", training={"epochs": 60}, launcher={"processes": 2})
    script(tmp_path / "script.py", UNBROKEN, tmp_path / "unbroken", launcher=TORCHRUN)
    for victim, number in ((1, signal.SIGKILL), (None, signal.SIGKILL), (None, signal.SIGINT)):
        at = epochs_done(out) + 2
        run = materialize(out)
        wait_until(lambda at=at, run=run: epochs_done(out) >= at or run.poll() is not None)
        assert run.poll() is None, (out / "run.log").read_text()[-4000:]
        pid = rank(out, 1) if victim else run.pid  # rank 1 alone; Dagster's run; a cancelled run
        assert pid
        kill(pid, number)
        assert run.wait(90) != 0
        wait_until(lambda: not processes_of(out), seconds=40)
        assert not step_of(out, "m3h_model").exists()
    finish(materialize(out), out)
    assert same(weights(out), load_file(tmp_path / "unbroken" / "model.safetensors"))
    import mlflow

    mlflow.set_tracking_uri(mlflow_uri(out))
    assert (
        len(mlflow.search_runs(experiment_names=[tracking.EXPERIMENT], output_format="list")) == 1
    )
