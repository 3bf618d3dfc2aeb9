"""A wide cohort through the whole main job: its time and its memory.

    python benchmarks/wide_cohort.py [--stays 20000] [--signals 400] [--codes 3000] [--tasks 12]
        [--out DIR]

Made up, in the format of the source `tables`: signals that between 2% and all of the stays have,
codes of which few are frequent, and tasks that hang on a few causes of both. It says nothing of
patients. The memory is that of all processes of `m3h run` together, pages that they share counted
once, looked at twice a second; the limit is 16 GiB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import psutil

MEMORY_LIMIT = 16.0
CAUSES = 12
CODES_OF_A_STAY = 60
START = dt.datetime(2024, 1, 1)


def make_hospital(to: Path, stays: int, signals: int, codes: int, tasks: int) -> None:
    """Write the tables."""
    rng = np.random.default_rng(0)
    to.mkdir(parents=True)
    causes = rng.normal(size=(stays, CAUSES))
    minutes = rng.integers(0, 365 * 24 * 60, stays)
    admitted = np.datetime64(START, "us") + minutes.astype("timedelta64[m]")
    days = rng.integers(2, 15, stays)
    samples = {
        "stay_id": np.arange(stays),
        "subject_id": rng.integers(0, stays * 4 // 5, stays),
        "admit_time": admitted,
        "discharge_time": admitted + days.astype("timedelta64[D]"),
        "age": rng.integers(18, 95, stays),
        "sex": rng.choice(["F", "M"], stays),
    }
    pl.DataFrame(samples).write_parquet(to / "samples.parquet")
    _events(rng, causes, admitted, signals).write_parquet(to / "events.parquet")
    _codes(rng, causes, admitted, codes).write_parquet(to / "codes.parquet")
    lines = []
    labels = []
    for at in range(tasks):
        score = causes @ rng.normal(size=CAUSES) / 3 + rng.logistic(size=stays)
        name = f"task_{at}"
        lines.append(f"  - {{name: {name}, problem: binary, department: hospital}}")
        is_case = score > np.quantile(score, rng.uniform(0.6, 0.95))
        labels.append(
            pl.DataFrame({"sample_id": np.arange(stays), "value": is_case.astype(np.int64)})
            .with_columns(pl.lit(name).alias("task"))
            .select("sample_id", "task", "value")
        )
    pl.concat(labels).write_parquet(to / "labels.parquet")
    head = ["timezone: UTC", "features: [age, sex]", "audit: [sex]", "tasks:"]
    (to / "cohort.yaml").write_text("\n".join([*head, *lines, ""]))


def _events(
    rng: np.random.Generator, causes: np.ndarray, admitted: np.ndarray, signals: int
) -> pl.DataFrame:
    frames = []
    for at, coverage in enumerate(np.geomspace(0.02, 1, signals)):
        has = np.flatnonzero(rng.random(len(causes)) < coverage)
        stay = np.repeat(has, 1 + rng.poisson(3, len(has)))
        level = causes[stay] @ rng.normal(size=CAUSES) / 3
        second = rng.integers(0, 24 * 3600, len(stay)).astype("timedelta64[s]")
        rows = {
            "stay_id": stay,
            "time": admitted[stay] + second,
            "value": level + rng.normal(size=len(stay)),
        }
        frames.append(pl.DataFrame(rows).with_columns(pl.lit(f"signal_{at}").alias("code")))
    return pl.concat(frames).with_columns(pl.lit("own").alias("unit"))


def _codes(
    rng: np.random.Generator, causes: np.ndarray, admitted: np.ndarray, codes: int
) -> pl.DataFrame:
    stay = np.repeat(np.arange(len(causes)), rng.poisson(CODES_OF_A_STAY, len(causes)))
    rank = (rng.pareto(0.7, len(stay)) * 20).astype(np.int64) % codes
    # A third of the codes follows the stay's leading cause.
    leading = causes[stay].argmax(axis=1)
    code = np.where(rng.random(len(stay)) < 1 / 3, (rank // CAUSES) * CAUSES + leading, rank)
    rows = {
        "stay_id": stay,
        "time": admitted[stay] + rng.integers(0, 24 * 60, len(stay)).astype("timedelta64[m]"),
        "code": [f"class_{one % 150}/drug_{one}" for one in code.tolist()],
    }
    return pl.DataFrame(rows).with_columns(pl.lit("drug").alias("kind"))


def run_measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds and the largest GiB of a command's processes together."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    most = 0.0
    while process.poll() is None:
        most = max(most, _memory_of(process.pid))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, most


def _memory_of(pid: int) -> float:
    total = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total / 2**30


def main() -> None:
    """Make the hospital, run it, print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stays", type=int, default=20_000)
    parser.add_argument("--signals", type=int, default=400)
    parser.add_argument("--codes", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--out", type=Path, help="where the hospital and its run are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        hospital = out / "hospital"
        if not hospital.exists():
            make_hospital(hospital, options.stays, options.signals, options.codes, options.tasks)
        command = [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--source", "tables"]
        command += ["--path", str(hospital), "--out", str(out / "run")]
        seconds, memory = run_measured(command)
    missed = "" if memory <= MEMORY_LIMIT else " MISSED"
    print(f"{seconds:.0f} s; {memory:.2f} GiB (at most {MEMORY_LIMIT:g}){missed}")


if __name__ == "__main__":
    main()
