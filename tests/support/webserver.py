"""`m3h ui` as a page uses it: Dagster's GraphQL, with the questions and orders that its pages
send.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
WORKSPACE = """
{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
  __typename
  ... on PythonError { message }
  ... on RepositoryLocation { repositories { name assetNodes { assetKey { path } } } } } } } } }
"""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dagster:
    """A few GraphQL calls, as the page makes them."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def launch(self, job: str, snapshot: str, assets: Sequence[str] = ()) -> str:
        """Start a job of one snapshot, for these assets or, without a name, for all; returns the
        run's id.
        """
        location = self.ask(WORKSPACE)["workspaceOrError"]["locationEntries"][0]
        assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
        repository = location["locationOrLoadError"]["repositories"][0]
        keys = [node["assetKey"] for node in repository["assetNodes"]]
        chosen = [key for key in keys if not assets or key["path"][-1] in assets]
        params = {
            "selector": {
                "repositoryLocationName": location["name"],
                "repositoryName": repository["name"],
                "pipelineName": job,
                "assetSelection": chosen,
                "assetCheckSelection": None,
            },
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": snapshot}]},
        }
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def status(self, run: str) -> str:
        return self.ask(STATUS, id=run)["runOrError"]["status"]


@contextlib.contextmanager
def served(out: Path) -> Iterator[tuple[subprocess.Popen[str], Dagster, int]]:
    """`m3h ui` of an out-folder: its process, Dagster's page, and the port of MLflow's."""
    dagster_port = free_port()
    mlflow_port = free_port()
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "ui", "--out", out]
    command += ["--port", str(dagster_port), "--mlflow-port", str(mlflow_port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout
        assert "Dagster" in process.stdout.readline(), (out / "ui.log").read_text()
        yield process, Dagster(dagster_port), mlflow_port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
