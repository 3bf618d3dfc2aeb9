"""The clock of the machine is set back: nothing is lost, and nothing is decided by the wrong time.

libfaketime (``apt-get install faketime``) tells every process of a command another time; what a
process measures by the monotonic clock, and the times of files, stay as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import demo_run
import pytest
from launched import wait_until

from m3h_pipeline.registry.audit import Audit
from m3h_pipeline.registry.client import open_client
from m3h_pipeline.registry.tags import SUPERSEDED
from m3h_pipeline.registry.versions import RegistryState

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
# This library refuses the sleep of Python 3.11 and later, until a time of the monotonic clock.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="apt-get install faketime")


class Machine:
    """A copy of the finished demo, on a machine of which the clock can be set."""

    def __init__(self, out: Path) -> None:
        folder = out.parent
        self.out = out
        self._clock = folder / "clock"
        (folder / "sitecustomize.py").write_text(SLEEP)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set_back(self, days: int) -> None:
        """Set the clock to so many days before the right time."""
        self._clock.write_text(f"-{days}d\n")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of m3h."""
        return subprocess.Popen(
            [sys.executable, "-m", "m3h_pipeline.cli.main", *words, "--out", str(self.out)],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, command: subprocess.Popen[str]) -> str:
        """What a command said that must succeed; it says of nothing that it took less than no
        time.
        """
        output, _ = command.communicate(timeout=300)
        assert command.returncode == 0, output
        assert "Traceback" not in output
        assert not re.search(r"-\d+(\.\d+)? s\b|-\d+:\d\d", output), output
        return output

    def m3h(self, *words: str) -> str:
        return self.finish(self.start(*words))

    def read_registry(self) -> RegistryState:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            return RegistryState.fetch(open_client(self.out))

    def read_steps(self) -> Mapping[str, int]:
        """When each step was made, by the machine that keeps the right time."""
        steps = self.out.glob("snapshots/*/**/step.json")
        return {str(step): step.stat().st_mtime_ns for step in steps}


@pytest.fixture
def machine(demo_run, tmp_path) -> Machine:
    return Machine(demo_run.copy_to(tmp_path / "machine"))


def test_every_command_after_the_clock_was_set_back(machine):
    machine.set_back(0)
    machine.m3h("review", "approve", "1", "--reason", "by the right clock")
    made = machine.read_steps()
    machine.set_back(1)
    assert "version 1 is the champion" in machine.m3h("run")
    after = machine.read_steps()
    of_version = {
        step for step in made if {"scores", "monitoring", "report"} & set(Path(step).parts)
    }
    assert {step for step in made if after[step] != made[step]} <= of_version
    machine.set_back(1000)  # before the first run
    assert "version 1 is the champion" in machine.m3h("score")
    assert "2026-01-01" in machine.m3h("snapshot", "list")
    machine.m3h("review", "reject", "1", "--reason", "by the wrong clock")
    listed = machine.m3h("review", "list")
    assert listed.index("by the right clock") < listed.index("by the wrong clock")
    machine.set_back(2000)
    machine.m3h("review", "approve", "1", "--reason", "after all")
    assert machine.read_registry().aliases["champion"] == "1"
    lines = Audit(machine.out).read_lines()
    assert [line.decision for line in lines] == ["approved", "rejected", "approved"]
    assert [line.at for line in lines] == sorted((line.at for line in lines), reverse=True)
    # The approval that counts is the last one.
    assert f"approved at {lines[-1].at[:19]}Z" in machine.m3h("review", "verify")


def test_the_clock_is_set_back_in_the_middle_of_a_run(machine):
    demo_run.configure(machine.out, training={"epochs": 7})
    machine.set_back(0)
    run = machine.start("run")
    snapshot = machine.out / "snapshots" / "2026-01-01"
    wait_until((snapshot / ".m3h_model.partial").exists)
    machine.set_back(400)
    assert "version 2 passed the gate and waits for review" in machine.finish(run)
    state = machine.read_registry()
    assert state.aliases["challenger"] == "2"
    assert state.get_version("1").status == SUPERSEDED
