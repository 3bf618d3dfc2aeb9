"""What other processes cost a training: the joint model's job alone, and beside many that never
rest.

    python benchmarks/busy.py COHORT [--policy spin limited passive] [--threads 1 2]
        [--spinning 15] [--epochs 60]

COHORT is a snapshot's step ``cohort`` (``<out>/snapshots/<date>/cohort``). The policies are how
OpenMP's threads wait for one another: "spin" as the runtime does by itself, "limited" as the
launcher starts jobs, "passive" asleep at once.

Fair share: CPU seconds of the job alone x (spinning processes + the job's threads) / cores. Busy, a
training is to take at most twice its fair share, and its predictions must be the same bytes in
every row of as many threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from m3h_pipeline.config import EmbeddingConfig
from m3h_pipeline.jobs.launchers import WAIT_POLICY
from m3h_pipeline.sources.tasks_file import read_tasks

LIMIT = 2.0
POLICIES = {
    "spin": {},
    "limited": WAIT_POLICY,
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
CORES = len(os.sched_getaffinity(0))


class Measured(NamedTuple):
    """One training: wall and CPU seconds, and a hash of its predictions."""

    wall: float
    cpu: float
    predictions: str


def train(cohort: Path, policy: dict[str, str], threads: int, epochs: int) -> Measured:
    """Run the job in a process of its own, as the launcher does."""
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", *WAIT_POLICY)
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    environment = {**inherited, **policy, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as scratch:
        to = Path(scratch, "to")
        to.mkdir()
        config = {
            "arm": "joint",
            "cohort": str(cohort.resolve()),
            "tasks": [task.to_dict() for task in read_tasks(cohort)],
            "to": str(to),
            "training": {"seed": 0, "epochs": epochs, "tree_rounds": 20, "coverage": 0.9},
            "model": {},
            "series_steps": EmbeddingConfig().series_steps,
            "mlflow": {
                "uri": f"sqlite:///{scratch}/mlflow.db",
                "artifacts": scratch,
                "key": "busy",
                "name": "busy",
                "tags": {},
            },
        }
        file = Path(scratch, "job.json")
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "m3h_pipeline.jobs.train", "--config", str(file)]
        with Path(scratch, "log").open("w") as log:
            started = time.monotonic()
            job = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            _, status, used = os.wait4(job.pid, 0)
            wall = time.monotonic() - started
        if status:
            sys.exit(Path(scratch, "log").read_text())
        digest = hashlib.sha256((to / "predictions.safetensors").read_bytes()).hexdigest()
    return Measured(wall, used.ru_utime + used.ru_stime, digest[:12])


def train_beside(
    spinning: int, cohort: Path, policy: dict[str, str], threads: int, epochs: int
) -> Measured:
    """The same beside so many processes that never rest."""
    with ExitStack() as running:
        for _ in range(spinning):
            process = running.enter_context(
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
            )
            running.callback(process.kill)
        return train(cohort, policy, threads, epochs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--policy", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--threads", nargs="+", type=int, default=[CORES])
    parser.add_argument("--spinning", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    print(
        f"{CORES} cores, {options.spinning} spinning processes, load at the start "
        f"{os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'policy':<9}{'threads':>8}{'quiet s':>9}{'CPU s':>8}"
        f"{'busy s':>8}{'fair s':>8}{'ratio':>7} "
        " predictions"
    )
    failed = False
    for threads in options.threads:
        seen = set()
        for name in options.policy:
            quiet = train(options.cohort, POLICIES[name], threads, options.epochs)
            busy = train_beside(
                options.spinning, options.cohort, POLICIES[name], threads, options.epochs
            )
            fair = quiet.cpu * (options.spinning + threads) / CORES
            ratio = busy.wall / fair
            seen |= {quiet.predictions, busy.predictions}
            figures = (
                f"{quiet.wall:>9.1f}{quiet.cpu:>8.1f}{busy.wall:>8.1f}{fair:>8.1f}{ratio:>7.2f}"
            )
            print(f"{name:<9}{threads:>8}{figures}  {busy.predictions}", flush=True)
            failed |= name == "limited" and ratio > LIMIT
        failed |= len(seen) > 1
    sys.exit(failed)


if __name__ == "__main__":
    main()
