"""Three nights on real servers: schedule, gate, review, promotion, rollback; on SQLite and on
PostgreSQL.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from small_run import save_small
from tables_folder import COHORT, Tables, event, write
from webserver import LAUNCH, STATUS, WORKSPACE, Dagster, free_port

from m3h_pipeline import config as configuration
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE, Audit
from m3h_pipeline.registry.tags import ANCHOR
from m3h_pipeline.registry.tags import STATUS as TAG
from m3h_pipeline.registry.versions import RegistryState

pytestmark = pytest.mark.slow(300)

NIGHTS = ["2026-03-01", "2026-03-02", "2026-03-03"]
TICK = """
mutation Tick($selector: ScheduleSelector!, $at: Float) {
  scheduleDryRun(selectorData: $selector, timestamp: $at) {
    __typename
    ... on DryRunInstigationTick {
      evaluationResult { skipReason error { message } runRequests { runKey tags { key value } } }
    }
    ... on PythonError { message }
  }
}
"""
FRESH = """
query Fresh {
  assetNodes(assetKeys: [{path: ["model_version"]}]) { freshnessStatusInfo { freshnessStatus } }
}
"""
INSTIGATORS = """
query Standing($selector: RepositorySelector!) {
  schedulesOrError(repositorySelector: $selector) {
    ... on Schedules { results { name executionTimezone scheduleState { status } } }
  }
  sensorsOrError(repositorySelector: $selector) {
    ... on Sensors { results { name sensorState { status } } }
  }
}
"""


def hospital(stays: int, *, spoiled: bool = False) -> Tables:
    """Stays whose labels follow from lactate and age; ``spoiled``: but for those that are learned
    from.
    """
    rng = np.random.default_rng(0)
    chance = np.random.default_rng(1)
    tables: Tables = {"samples": [], "events": [], "labels": []}
    for i in range(stays):
        day = dt.datetime(2024, 1, 1) + dt.timedelta(hours=i)
        lactate = rng.gamma(2, 1.5)
        age = int(rng.integers(20, 90))
        split = (0, 0, 1, 2, 3)[i % 5]
        risk = 1 / (1 + np.exp(-(1.2 * (lactate - 3) + 0.05 * (age - 55))))
        noise = rng.random(3)
        if spoiled and split < 2:
            risk = chance.random()
        tables["samples"].append(
            {
                "stay_id": f"s{i}",
                "subject_id": f"p{i}",
                "admit_time": str(day),
                "split": split,
                "age": age,
                "discharge_time": str(day + dt.timedelta(days=4)),
                "sex": "FM"[i % 2],
                "ward": "medicine",
            }
        )
        hour = str(day + dt.timedelta(hours=1))
        tables["events"] += [event(f"s{i}", hour, "lactate", round(lactate, 2), "mmol/L"),
                             event(f"s{i}", hour, "heart_rate", 80 + i % 9, "bpm")]  # fmt: skip
        days = round(float(3 + 4 * risk + noise[2]), 2)
        tables["labels"] += [
            {"sample_id": f"s{i}", "task": "death", "value": int(noise[0] < risk)},
            {"sample_id": f"s{i}", "task": "sepsis", "value": int(noise[1] < risk)},
            {"sample_id": f"s{i}", "task": "los", "value": days},
        ]
    return tables


TASKS = [
    {"name": "death", "problem": "binary"},
    {"name": "sepsis", "problem": "binary"},
    {"name": "los", "problem": "regression", "unit": "days"},
]


def configure(out: Path, source: Path) -> None:
    """The smallest configuration that runs every part."""
    save_small(
        configuration.configure_run(out, "tables", source, None, NIGHTS[0]),
        out,
        training={"epochs": 4},
        gate={"bootstrap": 500, "margin": 0.05},
        nightly={"late_after_hours": 0.02, "timezone": "Europe/Berlin"},
        notify={"command": f"cat >> {out}/told.txt"},
    )


class Hospital:
    """`m3h ui` as it runs day and night, and what one does with it."""

    def __init__(self, folder: Path, shared: Path, store: str) -> None:
        self.out = folder / "out"
        self.source = shared / "source"
        self.store = store
        self.kept = shared / "snapshots"
        self.ports = free_port(), free_port()
        self.dagster = Dagster(self.ports[0])
        self.mlflow = MlflowClient(f"http://127.0.0.1:{self.ports[1]}")
        self.deliver(NIGHTS[0], 300)
        configure(self.out, self.source)
        ports = ["--port", str(self.ports[0]), "--mlflow-port", str(self.ports[1])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "m3h_pipeline.cli.main", "ui", "--out", self.out, *ports],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def open(self) -> None:
        assert "Dagster" in self.process.stdout.readline(), self.log()
        location = self.dagster.ask(WORKSPACE)["workspaceOrError"]["locationEntries"][0]
        assert "repositories" in location["locationOrLoadError"], location
        repository = location["locationOrLoadError"]["repositories"][0]["name"]
        self.where = {"repositoryLocationName": location["name"], "repositoryName": repository}

    def deliver(self, night: str, stays: int, *, spoiled: bool = False) -> None:
        """The night's extraction. Steps that touch no database are taken from the test that
        computed them before.
        """
        write(self.source, hospital(stays, spoiled=spoiled), {**COHORT, "tasks": TASKS})
        at = dt.datetime.fromisoformat(night).timestamp()
        for file in self.source.iterdir():
            os.utime(file, (at, at))
        if (self.kept / night).exists():
            databases = shutil.ignore_patterns("m3h_model", "model_version", "gate", "report", ".*")
            shutil.copytree(self.kept / night, self.out / "snapshots" / night, ignore=databases)

    def log(self) -> str:
        return (self.out / "ui.log").read_text()[-6000:]

    def tick(self, night: str) -> dict:
        """What the schedule says at two o'clock of that night."""
        at = dt.datetime.fromisoformat(f"{night}T02:00:00+01:00").timestamp()
        answer = self.dagster.ask(TICK, selector={**self.where, "scheduleName": "nightly"}, at=at)[
            "scheduleDryRun"
        ]
        assert answer["__typename"] == "DryRunInstigationTick", answer
        assert not answer["evaluationResult"]["error"], answer
        return answer["evaluationResult"]

    def start(self, night: str) -> str:
        """Launch what the schedule asks for, as the daemon would; returns the run's id."""
        (request,) = self.tick(night)["runRequests"]
        assert request["runKey"] == night
        params = {
            "selector": {**self.where, "pipelineName": "main"},
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": request["tags"]},
        }
        launched = self.dagster.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def finish(self, run: str) -> str:
        return self.wait(
            lambda: (s := self.dagster.ask(STATUS, id=run)["runOrError"]["status"])
            in ("SUCCESS", "FAILURE", "CANCELED") and s, 400,
        )  # fmt: skip

    def wait(self, until: Callable[[], object], seconds: float = 120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if outcome := until():
                return outcome
            time.sleep(1)
        raise AssertionError(f"not within {seconds} s\n{self.log()}")

    def fresh(self) -> str:
        return self.dagster.ask(FRESH)["assetNodes"][0]["freshnessStatusInfo"]["freshnessStatus"]

    def aliases(self) -> dict[str, str]:
        """Who is what but for the anchor."""
        standing = RegistryState.fetch(self.mlflow).aliases
        return {alias: version for alias, version in standing.items() if alias != ANCHOR}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What both tests share: the source, and the snapshots that the first one computes."""
    return tmp_path_factory.mktemp("nights")


@pytest.fixture(params=["sqlite", "postgres"])
def nights(request, shared, tmp_path, monkeypatch) -> Iterator[Hospital]:
    for variable in (POSTGRES_VARIABLE, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    if request.param == "postgres":
        addresses = request.getfixturevalue("postgres")
        for variable, address in zip(
            (POSTGRES_VARIABLE, "MLFLOW_TRACKING_URI"), addresses, strict=True
        ):
            monkeypatch.setenv(variable, address)
    hospital = Hospital(tmp_path, shared, request.param)
    try:
        hospital.open()
        yield hospital
        if not hospital.kept.exists():
            shutil.copytree(hospital.out / "snapshots", hospital.kept)
    finally:
        hospital.process.send_signal(signal.SIGTERM)
        hospital.process.wait(30)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    "M3H_TEST_NIGHTS" not in os.environ, reason="three real nights take minutes: make test-nights"
)
def test_three_nights(nights):
    standing = nights.dagster.ask(INSTIGATORS, selector=nights.where)
    (schedule,) = standing["schedulesOrError"]["results"]
    assert (schedule["executionTimezone"], schedule["scheduleState"]["status"]) == (
        "Europe/Berlin",
        "RUNNING",
    )
    sensors = standing["sensorsOrError"]["results"]
    states = {sensor["name"]: sensor["sensorState"]["status"] for sensor in sensors}
    assert states == {"review": "RUNNING", "failed_run": "RUNNING"}

    # The first night: nobody to compare with. A second run is not started while one is going.
    run = nights.start(NIGHTS[0])
    assert "still going" in nights.tick(NIGHTS[1])["skipReason"]
    assert nights.finish(run) == "SUCCESS", nights.log()
    assert "nothing new to learn" in nights.tick(NIGHTS[1])["skipReason"]
    first = nights.mlflow.get_model_version("m3h", "1")
    assert first.tags[TAG] == "pending", first.tags
    assert first.tags["dagster.run_id"] == run
    assert first.tags["snapshot"] == NIGHTS[0]
    assert first.tags["git.commit"]
    assert first.tags["contract.samples"]
    assert "| Death | AUROC | 0." in first.description
    assert nights.aliases() == {"challenger": "1"}
    nights.mlflow.set_model_version_tag("m3h", "1", TAG, "approved")
    nights.wait(lambda: nights.aliases() == {"champion": "1"})

    # The second: more stays, and training labels that were mixed up at the source. The night is
    # green all the same.
    nights.deliver(NIGHTS[1], 350, spoiled=True)
    assert nights.finish(nights.start(NIGHTS[1])) == "SUCCESS", nights.log()
    second = nights.mlflow.get_model_version("m3h", "2")
    assert (second.tags[TAG], second.tags["validation_by"]) == ("rejected", "gate")
    assert "not_worse_than_champion" in second.tags["validation_reason"]
    message_file = nights.out / "told.txt"
    assert "version 2 (snapshot 2026-03-02) was rejected by the gate" in message_file.read_text()
    assert "m3h review approve 2" in message_file.read_text()
    message_file.unlink()
    assert json.loads((nights.out / "latest" / "metrics.json").read_text())["snapshot"] == NIGHTS[1]

    # The third: the source was mended.
    nights.deliver(NIGHTS[2], 400)
    assert nights.finish(nights.start(NIGHTS[2])) == "SUCCESS", nights.log()
    third = nights.mlflow.get_model_version("m3h", "3")
    assert third.tags[TAG] == "pending", third.tags
    assert "minus the champion (version 1)" in third.description
    assert nights.aliases() == {"champion": "1", "challenger": "3"}
    nights.mlflow.set_model_version_tag("m3h", "3", TAG, "approved")
    nights.wait(lambda: nights.aliases() == {"champion": "3", "previous": "1"})
    assert RegistryState.fetch(nights.mlflow).aliases[ANCHOR] == "1"

    rollback = [
        sys.executable,
        "-m",
        "m3h_pipeline.cli.main",
        "review",
        "rollback",
        "--reviewer",
        "Ada",
        "--reason",
        "alarms",
    ]
    subprocess.run([*rollback, "--out", nights.out], check=True, capture_output=True)
    nights.wait(lambda: nights.aliases() == {"champion": "1"})
    lines = [(line.version, line.decision, line.who) for line in Audit(nights.out).read_lines()]
    unknown = "unknown (in MLflow)"
    assert lines == [
        ("1", "approved", unknown),
        ("3", "approved", unknown),
        ("3", "rejected", "Ada"),
    ]

    # A night that fails is told, and a candidate that is overdue is seen.
    (nights.source / "samples.csv").unlink()
    assert nights.finish(nights.start("2026-03-04")) == "FAILURE"
    nights.wait(message_file.exists)
    assert "snapshot 2026-03-04) failed at ingest." in message_file.read_text()
    nights.wait(lambda: nights.fresh() == "DEGRADED")

    # Where everything lies.
    if nights.store == "postgres":
        assert not list((nights.out / "dagster").rglob("*.db"))
        assert not (nights.out / "mlflow" / "mlflow.db").exists()
        assert not (nights.out / "review.db").exists()
