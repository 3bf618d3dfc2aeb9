"""Wall time of the main job on the demo hospital: a first run, and a second in which nothing has
changed.

    python benchmarks/main_job.py [--size tiny] [--out DIR]

Prints each run's wall and CPU time against its limit (300 s and 60 s on 2 cores), and the steps'
share of the first run's wall: what is left is Dagster's own cost.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"first run": 300.0, "second run": 60.0}


def run(out: Path, size: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds (with children) and the sum of the steps' seconds of one `m3h
    run`.
    """
    before = os.times()
    started = time.monotonic()
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "m3h_pipeline.cli.main",
            "run",
            "--source",
            "demo",
            "--size",
            size,
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.monotonic() - started
    after = os.times()
    if result.returncode != 0:
        sys.exit(result.stderr)
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    steps = sum(
        float(seconds)
        for seconds in re.findall(r"^ *\d+:\d\d  \S+ +([\d.]+) s$", result.stderr, re.MULTILINE)
    )
    return wall, cpu, steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument("--out", type=Path, help="an out-folder to keep; a temporary one otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch) / "out"
        print(f"{'':<12}{'wall s':>9}{'limit s':>9}{'ratio':>7}{'CPU s':>9}{'steps s':>9}")
        for name, limit in LIMITS.items():
            wall, cpu, steps = run(out, options.size)
            print(
                f"{name:<12}{wall:>9.1f}{limit:>9.0f}{wall / limit:>7.2f}{cpu:>9.1f}{steps:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
