"""When a night starts, who is told, and what the card says; the nights themselves are in
test_nightly.py.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError
from report_example import example

from m3h_pipeline import config as configuration
from m3h_pipeline.config import NightlyConfig, NotifyConfig
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.schedules import (
    COMMAND_TAG,
    RUN_LOCK,
    build_nightly_schedule,
    find_active_run,
)
from m3h_pipeline.registry.notify import notify
from m3h_pipeline.reports.card import format_model_card
from m3h_pipeline.state.locks import hold_lock


@pytest.fixture
def out(tmp_path) -> Path:
    config = configuration.configure_run(tmp_path, "demo", None, "tiny", None)
    cohort = config.cohort.model_copy(update={"timezone": "Asia/Tokyo"})
    configuration.save(config.model_copy(update={"cohort": cohort}), tmp_path)
    return tmp_path


def test_the_label_is_the_night_s_date_where_the_hospital_is(out):
    (out / "home").mkdir()
    night = dt.datetime(2026, 5, 1, 17, tzinfo=dt.UTC)
    with (
        dg.DagsterInstance.local_temp(str(out / "home")) as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=night,
            resources={"workspace": Workspace(out=str(out))},
        ) as context,
    ):
        request = build_nightly_schedule("main")(context)
        assert instance.get_dynamic_partitions("snapshot") == ["2026-05-02"]
    assert (request.partition_key, request.run_key) == ("2026-05-02", "2026-05-02")
    assert configuration.load(out).source.snapshot == "2026-05-02"


def test_a_killed_command_does_not_stop_the_nights(out):
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.Definitions(jobs=[_job]).resolve_job_def("main")
        started = dg.DagsterRunStatus.STARTED
        run = instance.create_run_for_job(job, status=started, tags={COMMAND_TAG: "run"})
        assert find_active_run(instance, out, "main") is None
        with hold_lock(out / RUN_LOCK, shared=True):
            assert find_active_run(instance, out, "main") == run.run_id
        other = instance.create_run_for_job(job, status=started)
        assert find_active_run(instance, out, "main") == other.run_id


@dg.job(name="main")
def _job() -> None:
    pass


def test_what_can_t_be_a_night_is_refused():
    for wrong in ({"cron": "at two"}, {"timezone": "Europe/Atlantis"}, {"late_after_hours": 0}):
        with pytest.raises(ValidationError):
            NightlyConfig(**wrong)


def test_a_message_goes_to_the_command_and_to_the_web_address(tmp_path):
    got: list[dict] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.handle_request, daemon=True).start()
    way = NotifyConfig(
        command=f"cat > {tmp_path}/told", webhook=f"http://127.0.0.1:{server.server_port}/hook"
    )
    assert notify(way, "run 1 failed") == []
    assert (tmp_path / "told").read_text() == "run 1 failed"
    assert got == [{"text": "run 1 failed"}]
    server.server_close()
    assert notify(way, "again") == ["[notify] webhook failed (URLError)"]
    assert notify(NotifyConfig(command="exit 3"), "") == [
        "[notify] command failed (CalledProcessError)"
    ]
    assert notify(NotifyConfig(), "nobody listens") == []


def test_the_card_says_what_a_reviewer_needs_and_hides_small_counts():
    data = example()
    data["gate"]["champion"] = "4"
    card = format_model_card({**data, "cohort": {**data["cohort"], "modalities": {"vision": 3}}})
    for part in (
        "## Intended use",
        "## Cohort",
        "## Gate: passed",
        "## Subgroups",
        "## Task interaction",
        "## Limits",
    ):
        assert part in card
    assert "minus the champion (version 4)" in card
    assert "| 0.750 | +0.050 (+0.010 to +0.090) |" in card
    assert "\nNot claimed, fewer than 10 positives or negatives to judge by: Hypertension" in card
    assert "| Vision | <10 |" in card
    interaction = card.split("## Task interaction")[1].split("## Limits")[0]
    assert 1 <= interaction.strip().count(". ") + 1 <= 3
