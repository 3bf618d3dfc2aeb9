"""What orchestration costs: the main job's wall on the demo hospital against the work in its steps,
an executor a row.

    python benchmarks/orchestration.py [--size tiny] [--executors in_process multiprocess]

Each executor computes everything once, in an out-folder and a process of its own. From Dagster's
event log: `steps`, the sum of what its steps took from start to success, and `covered`, the seconds
in which at least one was at work (the multiprocess executor runs some side by side). `starting` is
the part of `steps` in which a job's process was starting and importing, by what the job itself says
that it took. Target: wall at most 1.2 times the steps without `starting`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg

TARGET = 1.2
EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}


def multiprocess_main() -> dg.JobDefinition:
    """The main job, a process a step."""
    from m3h_pipeline.definitions import MAIN_JOB, build_definitions

    return build_definitions(executor=dg.multiprocess_executor).resolve_job_def(MAIN_JOB)


def run_here(executor: str, size: str, out: Path) -> None:
    """The main job once, in this process; as `m3h run` for the executor that it uses."""
    from m3h_pipeline.cli.out_folder import prepare_folder
    from m3h_pipeline.cli.run import run_once

    if executor == "in_process":
        sys.exit(run_once(out, "demo", None, size, None))
    config = prepare_folder(out.absolute(), "demo", None, size)
    snapshot = config.source.snapshot
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("snapshot", [snapshot])
        with dg.execute_job(
            dg.reconstructable(multiprocess_main),
            instance,
            run_config={"loggers": {"console": {}}},
            tags={"dagster/partition": snapshot},
        ) as done:
            sys.exit(0 if done.success else 1)


def measured(executor: str, size: str, out: Path) -> dict[str, float]:
    """Wall, CPU (children included) and what the event log says of the steps."""
    before = os.times()
    started = time.monotonic()
    command = [sys.executable, __file__, "--run", executor, "--size", size, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.monotonic() - started
    after = os.times()
    if done.returncode:
        sys.exit(done.stderr)
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    with dg.DagsterInstance.from_config(str(out / "dagster")) as instance:
        (run,) = instance.get_runs()
        stats = [
            step
            for step in instance.get_run_step_stats(run.run_id)
            if step.start_time and step.end_time
        ]
    spans = [(step.start_time or 0.0, step.end_time or 0.0) for step in stats]
    steps = sum(end - start for start, end in spans)
    starting = sum(
        (step.end_time or 0) - (step.start_time or 0) - took
        for step in stats
        if (took := seconds_of_jobs(out).get(step.step_key)) is not None
    )
    return {
        "wall": wall,
        "CPU": cpu,
        "steps": steps,
        "covered": covered(spans),
        "starting": starting,
    }


_LAUNCHES_A_JOB = (
    "single_task_models",
    "tree_models",
    "m3h_model",
    "tim_report",
    *(f"{modality}_embedding" for modality in ("tabular", "timeseries", "language", "vision")),
)


def seconds_of_jobs(out: Path) -> dict[str, float]:
    """What each launched job says that it took, by its step."""
    (snapshot,) = (
        folder for folder in (out / "snapshots").iterdir() if not folder.name.startswith(".")
    )
    facts: dict[str, Any] = {
        step: json.loads((snapshot / step / "step.json").read_text())["info"]
        for step in _LAUNCHES_A_JOB
    }
    return {step: float(info["seconds"]) for step, info in facts.items()}


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in at least one span.

    >>> covered([(0, 2), (1, 4), (5, 6)])
    5.0
    """
    total = 0.0
    until = float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument("--executors", nargs="+", default=list(EXECUTORS), choices=list(EXECUTORS))
    parser.add_argument("--run", choices=list(EXECUTORS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_here(options.run, options.size, options.out)
    columns = ("wall", "CPU", "steps", "covered", "starting")
    print(
        f"{'':<14}"
        + "".join(f"{name:>10}" for name in columns)
        + f"{'ratio':>8}   (target {TARGET})"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for executor in options.executors:
            facts = measured(executor, options.size, Path(scratch) / executor)
            ratio = facts["wall"] / (facts["steps"] - facts["starting"])
            print(
                f"{executor:<14}"
                + "".join(f"{facts[name]:>10.1f}" for name in columns)
                + f"{ratio:>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
