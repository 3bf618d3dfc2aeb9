"""The tiny main job, killed at random moments: every resumed run ends with the same bytes.

The number of kills is ``M3H_TEST_KILLS``; without it the test is skipped, since a hundred take an
hour (``make test-kills``).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import kill, processes_of, wait_until

KILLS = int(os.environ.get("M3H_TEST_KILLS", "0"))
SEED = int(os.environ.get("M3H_TEST_SEED", "0"))
RESULTS = ("metrics.json", "tim.json", "predictions.parquet")
KILLS_PER_RUN = 8
# What a killed run leaves behind ends by itself within this time (jobs die with their parent).
SECONDS_TO_END = 60

pytestmark = [
    pytest.mark.skipif(not KILLS, reason="M3H_TEST_KILLS says how often to kill"),
    pytest.mark.timeout(0),
]


def start(out: Path) -> subprocess.Popen[bytes]:
    """The main job of the tiny demo, in a process group of its own."""
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--source", "demo"]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--size", "tiny", "--out", str(out)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def read_results(out: Path) -> dict[str, bytes]:
    return {name: (out / "latest" / name).read_bytes() for name in RESULTS}


def count_steps(out: Path) -> int:
    return len(list(out.glob("snapshots/*/[!.]*/step.json")))


def kill_some(run: subprocess.Popen[bytes], out: Path, draw: random.Random) -> str:
    """Kill the command, its whole group, or any one of its processes; returns what was killed."""
    choice = draw.choice(["command", "group", "process"])
    if choice == "group":
        os.killpg(run.pid, signal.SIGKILL)
    elif choice == "command":
        kill(run.pid)
    else:
        pids = sorted(processes_of(out))
        kill(draw.choice(pids) if pids else run.pid)
    return choice


def test_every_resumed_run_ends_with_the_same_bytes(tmp_path):
    draw = random.Random(SEED)
    begin = time.monotonic()
    unbroken = start(tmp_path / "unbroken")
    assert unbroken.wait() == 0, (tmp_path / "unbroken.log").read_text()[-4000:]
    duration = time.monotonic() - begin
    expected = read_results(tmp_path / "unbroken")
    n_steps = count_steps(tmp_path / "unbroken")
    finished_at_kills: list[int] = []
    kills = 0
    finished_runs = 0
    while kills < KILLS:
        out = tmp_path / f"killed-{finished_runs}"
        log = tmp_path / f"{out.name}.log"
        kills_of_this_run = 0
        while True:
            run = start(out)
            # A run that goes on skips what is finished, so that half a whole run's time reaches
            # every step, from the first attempt's to the last one's.
            is_last = kills == KILLS or kills_of_this_run == KILLS_PER_RUN
            seconds = None if is_last else draw.uniform(0, duration / 2)
            try:
                assert run.wait(seconds) == 0, log.read_text()[-4000:]
                break
            except subprocess.TimeoutExpired:
                choice = kill_some(run, out, draw)
            kills += 1
            kills_of_this_run += 1
            run.wait(SECONDS_TO_END * 5)
            wait_until(lambda out=out: not processes_of(out), seconds=SECONDS_TO_END, each=0.2)
            finished = count_steps(out)
            finished_at_kills.append(finished)
            print(
                f"kill {kills}: {choice} after {seconds:.1f} s, {finished} of {n_steps} steps done",
                flush=True,
            )
        assert read_results(out) == expected, out
        assert not processes_of(out)
        finished_runs += 1
        print(f"run {finished_runs}: {kills_of_this_run} kills, the same bytes", flush=True)
    if KILLS >= 50:
        # Kills that never reach the end say nothing about it.
        assert min(finished_at_kills) == 0
        assert max(finished_at_kills) >= n_steps - 2
