"""A run that is cancelled in Dagster's page, by the order that its button sends."""

from __future__ import annotations

import json
import os

from launched import SNAPSHOT, epochs_done, kill, prepared, processes_of, step_of, wait_until
from webserver import ENDED, Dagster, served

TERMINATE = """
mutation Terminate($runIds: [String!]!, $terminatePolicy: TerminateRunPolicy) {
  terminateRuns(runIds: $runIds, terminatePolicy: $terminatePolicy) {
    ... on TerminateRunsResult { terminateRunResults { __typename } }
    ... on PythonError { message }
  }
}
"""
POOL = """
{ instance { concurrencyLimit(concurrencyKey: "gpu") {
    slotCount claimedSlots { runId } pendingSteps { runId }
} } }
"""


def pool(dagster: Dagster) -> dict:
    return dagster.ask(POOL)["instance"]["concurrencyLimit"]


def test_cancelling_a_training_of_two_processes_ends_all_of_it_and_the_next_run_goes_on(tmp_path):
    out = prepared(tmp_path / "out", training={"epochs": 25}, launcher={"processes": 2})
    try:
        with served(out) as (_, dagster, _):
            servers = processes_of(out)
            run = dagster.launch("main", SNAPSHOT, ["m3h_model"])
            wait_until(lambda: epochs_done(out) >= 2 or dagster.status(run) in ENDED, each=0.2)
            # Python's tracker is one for all runs that the code server starts.
            now = {
                pid: command
                for pid, command in processes_of(out).items()
                if "resource_tracker" not in command
            }
            started = {pid: command for pid, command in now.items() if pid not in servers}
            training = [pid for pid, command in started.items() if "jobs.train" in command]
            # torchrun and two workers, each in a session of its own: no signal to a group reaches
            # all.
            assert len(training) == len({os.getsid(pid) for pid in training}) == 3, started
            assert [slot["runId"] for slot in pool(dagster)["claimedSlots"]] == [run]

            asked = dagster.ask(TERMINATE, runIds=[run], terminatePolicy="SAFE_TERMINATE")[
                "terminateRuns"
            ]
            assert asked["terminateRunResults"] == [{"__typename": "TerminateRunSuccess"}], asked
            wait_until(lambda: dagster.status(run) in ENDED, seconds=30, each=0.2)
            assert dagster.status(run) == "CANCELED"
            wait_until(lambda: not started.keys() & processes_of(out).keys(), seconds=20)
            assert not step_of(out, "m3h_model").exists()
            assert pool(dagster)["claimedSlots"] == pool(dagster)["pendingSteps"] == []

            run = dagster.launch("main", SNAPSHOT, ["m3h_model"])
            wait_until(lambda: dagster.status(run) in ENDED, each=0.2)
            assert dagster.status(run) == "SUCCESS"
            lines = (step_of(out, "m3h_model") / ".curves.jsonl").read_text().splitlines()
            assert [json.loads(line)["epoch"] for line in lines] == list(range(len(lines))), (
                "an epoch was done again"
            )
    finally:
        for pid in processes_of(out):  # where the test has failed
            kill(pid)
