"""Two nights of a marked hospital: the champion's scores, the same from a server, what has drifted,
no mark left.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import marked_hospital
import polars as pl
import pytest
from small_run import save_small
from traces import files_with

from m3h_pipeline import config
from m3h_pipeline.features.served import raw_inputs
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.liveness import mark_run_alive
from m3h_pipeline.state.steps import read_step

pytestmark = pytest.mark.slow(100)

FIRST = "2026-01-01"
SECOND = "2026-01-02"
THIRD = "2026-01-03"
STAYS = 200
NEW = 60
# A night without training: what is new is ingested and scored.
_SCORE_NIGHT = """
import sys
from pathlib import Path
import dagster as dg
from m3h_pipeline.definitions import defs
from m3h_pipeline.cli.out_folder import prepare_run
night = sys.argv[2]
prepare_run(Path(sys.argv[1]), snapshot=night)
chosen = dg.AssetSelection.assets("monitoring").upstream().resolve(defs.resolve_asset_graph())
with dg.DagsterInstance.get() as instance:
    instance.add_dynamic_partitions("snapshot", [night])
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, partition_key=night, asset_selection=list(chosen)
    )
for check in result.get_asset_check_evaluations():
    print(check.check_name, check.passed, check.description)
"""


@dataclass(frozen=True)
class Nights:
    """An out-folder after two nights, what was printed, and the answer while there was
    no champion.
    """

    out: Path
    printed: str
    without_champion: subprocess.CompletedProcess

    @property
    def scores(self) -> pl.DataFrame:
        return pl.read_parquet(self.out / "latest" / "scores.parquet")


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> Nights:
    root = tmp_path_factory.mktemp("nights")
    hospital = root / "hospital"
    out = root / "out"
    printed = []

    def run(*command: object, check: bool = True) -> subprocess.CompletedProcess:
        words = [sys.executable, *map(str, command)]
        result = subprocess.run(
            words, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=550
        )
        assert not check or result.returncode == 0, result.stderr
        printed.append(result.stdout + result.stderr)
        return result

    marked_hospital.write(hospital, STAYS)
    # After three epochs the recurrent network knows no age yet, and its sets would hold the shift.
    by_statistics = {"series_steps": 0}
    chosen = config.configure_run(out, "tables", hospital, None, FIRST)
    save_small(chosen, out, embedding=by_statistics)
    run("-m", "m3h_pipeline.cli.main", "run", "--out", out)
    without = run("-m", "m3h_pipeline.cli.main", "score", "--out", out, check=False)
    run("-m", "m3h_pipeline.cli.main", "review", "approve", "1", "--out", out)
    shutil.rmtree(hospital)
    marked_hospital.write(hospital, STAYS + NEW, first=STAYS + 1, shift=25)
    run("-c", _SCORE_NIGHT, out, SECOND)
    return Nights(out, "".join(printed), without)


def _store(out: Path) -> str:
    return f"sqlite:///{out}/mlflow/mlflow.db"


def test_without_a_champion_it_says_what_to_do(nights):
    result = nights.without_champion
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"m3h review approve VERSION --out {nights.out}" in result.stderr
    assert "there are the versions 1" in result.stderr
    # The night itself is no failure, and says nothing of anybody.
    first = read_step(nights.out / "snapshots" / FIRST / "scores")
    assert first.info["samples"] == 0
    assert pl.read_parquet(first.folder / "scores.parquet").is_empty()
    assert (
        "There was no champion when this page was written"
        in (nights.out / "latest" / "report.html").read_text()
    )


def test_every_row_is_calibrated_covered_and_says_by_which_version_and_without_what(nights):
    scores = nights.scores
    assert scores.schema == scoring.SCHEMA
    assert scores["sample_id"].n_unique() == NEW
    assert set(scores["model_version"]) == {"1"}
    assert set(scores["snapshot"]) == {SECOND}
    assert scores["new"].all()
    assert not scores["still_in"].any()
    assert set(scores.filter(pl.col("problem") != "clustering")["coverage"]) == {0.9}
    death = scores.filter(task="death")
    assert death["calibrated"].all()
    assert death["prediction"].is_between(0, 1).all()
    assert death["set"].list.eval(pl.element().is_in(["no", "yes"])).list.all().all()
    stay = scores.filter(task="los")
    assert (stay["low"] < stay["prediction"]).all()
    assert (stay["prediction"] < stay["high"]).all()
    classes = (
        scores.filter(task="destination").group_by("sample_id").agg(pl.col("prediction").sum())
    )
    assert classes["prediction"].to_list() == pytest.approx([1] * NEW)
    clusters = scores.filter(problem="clustering")
    nearest = clusters.sort("distance").unique("sample_id", keep="first").sort("sample_id")["class"]
    likeliest = (
        clusters.sort("prediction", descending=True)
        .unique("sample_id", keep="first")
        .sort("sample_id")
    )
    assert nearest.equals(likeliest["class"])
    lacks = scores.unique("sample_id")["lacks"]
    assert lacks.list.contains("language").sum() == NEW / 2
    assert lacks.list.contains("vision").sum() == NEW / 2
    assert (nights.out / "latest" / "scores.parquet").stat().st_mode & 0o077 == 0
    assert (nights.out / scoring.DATABASE).stat().st_mode & 0o077 == 0


def test_a_server_of_the_champion_gives_the_same_numbers(nights, served):
    scores = nights.scores
    samples = scores["sample_id"].unique(maintain_order=True).to_list()[:12]
    (frame,) = raw_inputs(nights.out / "snapshots" / SECOND / "inputs", samples)
    records = [_without_nan(row) for row in frame.to_dict("records")]
    for image in (image for record in records for image in record["images"]):
        image["content"] = base64.b64encode(image["content"]).decode()
    answers = served(records)
    assert len(answers) == len(samples)
    # As a client would who has nothing but one number.
    assert served([{"age": 70.0}])[0]["lacks"] == ["language", "timeseries", "vision"]
    for row in scores.filter(pl.col("sample_id").is_in(samples)).iter_rows(named=True):
        answer = answers[samples.index(row["sample_id"])]
        task = row["task"]
        of_class = "" if row["class"] is None else f"/{row['class']}"
        expected = {
            f"{task}{of_class}": row["prediction"],
            f"{task}.low": row["low"],
            f"{task}.high": row["high"],
            f"{task}.distance{of_class}": row["distance"],
        }
        for name, value in expected.items():
            if value is not None:
                value = pytest.approx(value, rel=1e-4, abs=1e-5)
            assert answer.get(name) == value, name
        assert answer.get(f"{task}.set") == row["set"]
        assert answer["lacks"] == row["lacks"]


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value != value else value for key, value in row.items()}


@pytest.fixture
def served(nights) -> Iterator[Any]:
    """``mlflow models serve`` of the champion, with pickle forbidden; a function from records to
    predictions.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": _store(nights.out),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # uvicorn
    }
    command = ["mlflow", "models", "serve", "-m", "models:/m3h@champion"]
    command += ["--env-manager", "local", "-p", str(port)]
    log = (nights.out.parent / "serve.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def ask(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        body = json.dumps({"dataframe_records": records}, allow_nan=False).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["predictions"]

    try:
        for _ in range(400):
            assert server.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield ask
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def test_drift_is_seen_where_it_is_and_only_there(nights):
    results = read_json(nights.out / "snapshots" / SECOND / "monitoring" / "monitoring.json")
    assert results["new"] == NEW
    assert results["reason"] is None
    assert [record["name"] for record in results["inputs"] if record["changed"]] == ["age"]
    missing = {record["name"] for record in results["missing"] if record["changed"]}
    assert missing == {"number of notes", "characters of notes"}
    assert {record["task"] for record in results["performance"]} == {"death", "los", "destination"}
    # Nobody is ranked worse; but sets were calibrated on younger patients, and hold less of these.
    assert not any(record["fell"] for record in results["performance"])
    assert [record["task"] for record in results["performance"] if record["uncovered"]] == ["death"]
    checks = read_step(nights.out / "snapshots" / SECOND / "monitoring").info["checks"]
    assert [check for check, (passed, _) in checks.items() if passed] == []
    assert "Age" in checks["inputs"][1]
    assert "of the labels within what was said" in checks["performance"][1]


def test_no_patient_s_value_is_outside_snapshots_and_quarantine(nights):
    traces = set(marked_hospital.find_marks(nights.out, nights.printed))
    allowed = {
        (file, mark)
        for file, columns in marked_hospital.ROWS_OF_PATIENTS.items()
        for mark in marked_hospital.MARKS
        if mark[1] in columns
    }
    assert traces - allowed == set()
    # The search does find them: each was read, and a file that may hold an id does.
    assert ("latest/predictions.parquet", ("samples", "stay_id")) in traces
    inside = {mark for _, mark in marked_hospital.find_marks(nights.out / "snapshots", "")}
    assert inside == set(marked_hospital.MARKS)


def test_the_table_holds_each_night_once_and_forgets(nights, tmp_path):
    out = Path(shutil.copytree(nights.out, tmp_path / "out"))
    scores = out / "snapshots" / SECOND / "scores" / "scores.parquet"
    with duckdb.connect(out / scoring.DATABASE, read_only=True) as open_reader:
        scoring.publish_scores(out, scores)
        assert open_reader.execute("SELECT count(*) FROM scores").fetchone() == (
            len(nights.scores),
        )
    other = tmp_path / "scores.parquet"
    nights.scores.with_columns(pl.lit("2").alias("model_version")).write_parquet(other)
    scoring.publish_scores(out, other)
    with duckdb.connect(out / scoring.DATABASE, read_only=True) as database:
        rows = database.execute(
            "SELECT model_version, count(*) FROM scores GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert rows == [("1", len(nights.scores)), ("2", len(nights.scores))]

    patient = f"p{STAYS + NEW}"
    assert files_with(out, [patient])
    command = [sys.executable, "-m", "m3h_pipeline.cli.main"]
    command += ["forget", patient, "--out", str(out), "--yes"]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout
    rows = 2 * len(nights.scores.filter(subject_id=patient))
    assert f"scores of all nights: {rows} rows erased" in printed
    assert files_with(out, [patient]) == []
    assert not scoring.has_scored(out, patient)
    assert scoring.has_scored(out, f"p{STAYS + 1}")


@dg.job
def _job() -> None:
    pass


def leave_killed_run(out: Path) -> str:
    """What a run that was killed leaves in Dagster's records; returns its id."""
    with dg.DagsterInstance.local_temp(str(out / "dagster")) as instance:
        run = instance.create_run_for_job(_job, status=dg.DagsterRunStatus.STARTED)
        with mark_run_alive(out, run.run_id):
            return run.run_id


def get_run_status(out: Path, run_id: str) -> dg.DagsterRunStatus:
    with dg.DagsterInstance.local_temp(str(out / "dagster")) as instance:
        return instance.get_run_by_id(run_id).status


def test_what_nobody_approved_is_a_trial_and_a_fresh_approval_makes_it_count(nights, tmp_path):
    """A champion of an earlier version of the software: its audit line names no files."""
    out = Path(shutil.copytree(nights.out, tmp_path / "out"))
    with sqlite3.connect(out / "review.db") as database:
        database.execute("UPDATE m3h_review SET digest = NULL")
    before = (out / "latest" / "scores.parquet").read_bytes()
    killed = leave_killed_run(out)

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "m3h_pipeline.cli.main", *words, "--out", str(out)]
        return subprocess.run(
            command, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300
        )

    refused = run("score", "--snapshot", SECOND)
    assert refused.returncode == 1
    assert "has no approval that names its files" in refused.stderr
    assert f"m3h review approve 1 --out {out}" in refused.stderr
    trial = run("score", "--version", "1", "--all", "--snapshot", SECOND)
    assert trial.returncode == 0, trial.stderr
    file = out / "snapshots" / SECOND / scoring.TRIAL / "version-1" / "scores.parquet"
    assert get_run_status(out, killed) == dg.DagsterRunStatus.FAILURE
    assert str(file) in trial.stdout
    assert "version 1 is not approved" in trial.stdout
    assert file.stat().st_mode & 0o077 == 0
    assert pl.read_parquet(file)["sample_id"].n_unique() == STAYS + NEW
    assert (out / "latest" / "scores.parquet").read_bytes() == before
    assert (out / scoring.DATABASE).read_bytes() == (nights.out / scoring.DATABASE).read_bytes()
    assert run("review", "approve", "1").returncode == 0
    counted = run("score", "--snapshot", SECOND)
    assert counted.returncode == 0, counted.stderr
    assert str(out / "latest" / "scores.parquet") in counted.stdout


def test_a_champion_that_can_t_be_loaded_costs_its_scores_and_no_more(nights):
    """Last in this file: the third night has no scores."""
    (weights,) = nights.out.glob("mlflow/artifacts/**/artifacts/model/network/0/model.safetensors")
    weights.rename(weights.with_suffix(".away"))
    try:
        words = [sys.executable, "-c", _SCORE_NIGHT, str(nights.out), THIRD]
        night = subprocess.run(
            words, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300
        )
        assert night.returncode == 0, night.stderr
        words = [sys.executable, "-m", "m3h_pipeline.cli.main", "score"]
        words += ["--out", str(nights.out), "--version", "1"]
        asked = subprocess.run(
            words, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300
        )
    finally:
        weights.with_suffix(".away").rename(weights)
    changed = "the files of version 1 of m3h in MLflow are not those that were approved"
    assert f"champion_applies False {changed}" in night.stdout
    scores = read_step(nights.out / "snapshots" / THIRD / "scores")
    assert scores.info["samples"] == 0
    assert changed in scores.info["problem"]
    # Who asks for the scores of just this version is told, and gets none.
    assert asked.returncode == 1
    assert changed in asked.stderr
    assert "Traceback" not in asked.stderr
