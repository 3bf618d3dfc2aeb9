"""``m3h ui``: every asset launched as a click launches it, the pages that people see; the servers stop together."""

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


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """`m3h ui` on a new out-folder with the tiny demo configured."""
    out = tmp_path_factory.mktemp("ui") / "out"
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


@pytest.fixture(scope="module")
def launched(servers):
    """The status of a run of every asset that was launched from the page."""
    _, dagster, _, _ = servers
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
    return status


def test_every_asset_launched_from_the_page_succeeds(servers, launched):
    _, _, mlflow_port, out = servers
    assert launched == "SUCCESS", (out / "ui.log").read_text()[-4000:]
    assert (out / "latest" / "report.html").exists()
    with urllib.request.urlopen(f"http://127.0.0.1:{mlflow_port}/health", timeout=30) as response:
        assert response.status == 200


@pytest.fixture
def page(browser):
    """A page of 1,600 by 1,000 pixels; afterwards: no script of it has failed."""
    errors = []
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    context.on("weberror", lambda raised: errors.append(str(raised.error)))
    yield page
    context.close()
    assert errors == []


def test_dagster_s_graph_leads_to_the_model_and_on_to_mlflow(servers, launched, page):
    _, dagster, mlflow_port, _ = servers
    site = dagster.url.removesuffix("/graphql")
    page.goto(f"{site}/asset-groups")
    for group in ("ingestion", "validation", "inputs", "embeddings", "training", "scoring", "reports", "registry"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.goto(f"{site}/assets/m3h_model")
    page.get_by_text("one network that learns all tasks").first.wait_for()
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("img", name="losses")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    page.keyboard.press("Escape")
    link = page.get_by_role("link", name=f"http://127.0.0.1:{mlflow_port}/#/experiments/").get_attribute("href")
    page.goto(link)
    page.get_by_text("m3h 2026-01-01").first.wait_for()
    page.get_by_text("train_loss").first.wait_for()


def test_mlflow_shows_the_card_and_the_report_of_a_version(servers, launched, page):
    _, _, mlflow_port, _ = servers
    page.goto(f"http://127.0.0.1:{mlflow_port}/#/models/m3h/versions/1")
    page.get_by_role("heading", name="Intended use").wait_for()
    for part in ("Cohort", "Gate: passed", "Tasks, on the test split", "Subgroups", "Task interaction", "Limits"):
        assert page.get_by_role("heading", name=part).is_visible(), part
    assert page.get_by_role("cell", name="Time series").is_visible()
    assert page.get_by_text("Not claimed, fewer than 30 labelled test samples: Heart failure").is_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="The whole report").click()
    opened.value.frame_locator("iframe").get_by_role("heading", name="Every task").wait_for(timeout=60_000)


def test_ctrl_c_stops_all_servers(servers):
    process, _, mlflow_port, _ = servers
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", mlflow_port)) != 0
