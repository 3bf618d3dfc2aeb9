"""``m3h ui``: every asset launched as a click launches it; the servers stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from m3h_pipeline import config

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


@pytest.fixture
def servers(tmp_path):
    """`m3h ui` on a new out-folder with the tiny demo configured."""
    out = tmp_path / "out"
    out.mkdir()
    config.save(config.for_run(out, "demo", None, "tiny", None), out)
    dagster_port, mlflow_port = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "m3h_pipeline.cli", "ui", "--out", out, "--port", str(dagster_port),
         "--mlflow-port", str(mlflow_port)],
        stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert "Dagster" in process.stdout.readline(), (out / "ui.log").read_text()
    yield process, Dagster(dagster_port), mlflow_port, out
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_every_asset_launched_from_the_page_succeeds(servers):
    process, dagster, mlflow_port, out = servers
    location = dagster.ask(WORKSPACE)["workspaceOrError"]["locationEntries"][0]
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
    repository = location["locationOrLoadError"]["repositories"][0]
    params = {
        "selector": {
            "repositoryLocationName": location["name"],
            "repositoryName": repository["name"],
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [node["assetKey"] for node in repository["assetNodes"]],
            "assetCheckSelection": None,
        },
        "mode": "default",
        "runConfigData": "{}",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "2026-01-01"}]},
    }
    launched = dagster.ask(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    deadline = time.monotonic() + 500
    status = None
    while time.monotonic() < deadline and status not in ("SUCCESS", "FAILURE", "CANCELED"):
        time.sleep(2)
        status = dagster.ask(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
    assert status == "SUCCESS", (out / "ui.log").read_text()[-4000:]
    assert (out / "latest" / "report.html").exists()
    with urllib.request.urlopen(f"http://127.0.0.1:{mlflow_port}/health", timeout=30) as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", mlflow_port)) != 0
