"""``m3h ui``: every asset launched as a click launches it; the servers stop together."""

import signal
import socket
import time
import urllib.request

import pytest
from webserver import ENDED, served

from m3h_pipeline import config


@pytest.fixture
def servers(tmp_path):
    """`m3h ui` on a new out-folder with the tiny demo configured."""
    out = tmp_path / "out"
    out.mkdir()
    config.save(config.for_run(out, "demo", None, "tiny", None), out)
    with served(out) as (process, dagster, mlflow_port):
        yield process, dagster, mlflow_port, out


def test_every_asset_launched_from_the_page_succeeds(servers):
    process, dagster, mlflow_port, out = servers
    run = dagster.launch("__ASSET_JOB", "2026-01-01")
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and dagster.status(run) not in ENDED:
        time.sleep(2)
    assert dagster.status(run) == "SUCCESS", (out / "ui.log").read_text()[-4000:]
    assert (out / "latest" / "report.html").exists()
    with urllib.request.urlopen(f"http://127.0.0.1:{mlflow_port}/health", timeout=30) as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", mlflow_port)) != 0
