"""The main job on the tiny demo hospital: real DuckDB, Great Expectations, training processes and
MLflow.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from demo_run import is_of_snapshots
from opened_files import watch_files
from page_cells import check_numbers
from steps_read import steps_read
from traces import files_with, paths_open_to_others

from m3h_core import Cohort
from m3h_pipeline.definitions import defs
from m3h_pipeline.defs.io_manager import step_name
from m3h_pipeline.evaluation import claims
from m3h_pipeline.reports.flow import count_erased, count_sample_flow
from m3h_pipeline.state.layout import find_valid_folders
from m3h_pipeline.state.steps import read_step

pytestmark = pytest.mark.slow(130)

M3H = [sys.executable, "-m", "m3h_pipeline.cli.main"]


def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [*M3H, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env=dict(os.environ),
    )
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="session")
def finished(demo_run) -> tuple[Path, subprocess.CompletedProcess]:
    """The out-folder of a finished run, and what the command printed."""
    return demo_run.out, demo_run.result


@pytest.fixture(scope="session")
def latest(finished) -> Path:
    return finished[0] / "latest"


def test_last_screen_says_what_to_open(finished):
    out, result = finished
    assert len(result.stdout.strip().splitlines()) <= 15
    assert str(out / "latest" / "report.html") in result.stdout
    # Every command that is named can be copied as it stands.
    commands = re.findall(r"m3h (?:ui|review \w+)[^,\n]*", result.stdout)
    assert len(commands) == 2
    assert all(f" --out {out}" in command for command in commands)
    assert re.search(r"Data       checks: \d+ passed, \d+ not judged", result.stdout)
    assert "Traceback" not in result.stderr
    assert re.fullmatch(r"( *\d+:\d\d  \w+ +\d+\.\d s\n)+", result.stderr)  # quiet: a line a step


def test_what_latest_holds(latest):
    assert re.search(
        r'href="http://[\w.:]+/#/experiments/\d+/runs/\w+"', (latest / "report.html").read_text()
    )
    metrics = json.loads((latest / "metrics.json").read_text())
    assert len(metrics["tasks"]) == 6
    fields = {
        "task",
        "problem",
        "metric",
        "value",
        "low",
        "high",
        "single_task",
        "trees",
        "difference",
        "claimed",
    }
    assert fields <= set(metrics["tasks"][0])
    interaction = json.loads((latest / "tim.json").read_text())
    assert len(interaction["matrix"]) == len(interaction["tasks"]) >= 2
    predictions = pl.read_parquet(latest / "predictions.parquet")
    assert predictions.columns == [
        "sample_id",
        "task",
        "class",
        "prediction",
        "target",
        "split",
        "fold",
    ]
    assert predictions["prediction"].is_finite().all()
    # The demo's patients are divided by the hash: three models judge all of them.
    assert set(predictions["fold"]) == {0, 1, 2}
    assert {task["evaluation"] for task in metrics["tasks"]} == {"cross-fitted"}
    labels = predictions.drop_nulls("target").unique(["sample_id", "task"])
    n_labels = dict(labels["task"].value_counts().iter_rows())
    for task in metrics["tasks"]:
        if task["problem"] != "clustering":
            assert task["n"] == n_labels[task["task"]]


def test_every_step_reads_what_its_asset_declares_and_nothing_else(demo_run):
    expected = declared_steps()
    # There is no champion yet whose scores could be computed.
    expected["scores"] = set()
    assert steps_read(demo_run.events, demo_run.snapshot) == expected


def declared_steps() -> dict[str, set[str]]:
    """Step -> the steps of the assets that its asset has as inputs."""
    graph = defs.resolve_asset_graph()
    declared: dict[str, set[str]] = {}
    for key in graph.get_all_asset_keys():
        parents = {step_name(parent.path[-1]) for parent in graph.get(key).parent_keys}
        declared.setdefault(step_name(key.path[-1]), set()).update(parents)
    return declared


def test_nobody_but_the_owner_can_read_anything(finished):
    assert paths_open_to_others(finished[0]) == []


def test_screen_card_and_mlflow_say_what_the_files_say(finished, latest):
    out, result = finished
    tasks = json.loads((latest / "metrics.json").read_text())["tasks"]
    comparisons = json.loads((latest / "detail.json").read_text())["comparisons"]
    fields = {"trees_difference", "trees_difference_low", "trees_difference_high"}
    assert all(fields <= task.keys() for task in tasks)
    card = (latest / "model_card.md").read_text()
    page = html.unescape((latest / "report.html").read_text())
    for against, record in comparisons.items():
        assert (
            f"model against {claims.NAMES[against]}: {claims.format_comparison(record)}"
            in result.stdout
        )
    for sentence in claims.write_sentences(comparisons, tasks):
        assert f"- {sentence}\n" in card
        assert f"<li>{sentence}</li>" in page
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")
    version = client.get_model_version("m3h", "1")
    logged = client.get_run(version.run_id).data.metrics
    expected = claims.to_metrics(tasks, comparisons)
    assert {name: logged[name] for name in expected} == expected
    # As much of the card as MLflow can hold, whole lines, what is claimed among them.
    described, cut, _ = version.description.partition("\n\nThe rest is in [the whole card]")
    assert card.startswith(described) if cut else described.startswith(card.strip())
    assert all(
        f"- {sentence}\n" in described for sentence in claims.write_sentences(comparisons, tasks)
    )
    assert len(version.description) <= 5000
    files = {
        name: json.loads((latest / f"{name}.json").read_text())
        for name in ("metrics", "trust", "detail", "tim")
    }
    (gate,) = out.glob("snapshots/*/gate/gate.json")
    check_numbers(page, files | {"gate": json.loads(gate.read_text())})
    assert "model_card.md" in [file.path for file in client.list_artifacts(version.run_id)]


def test_lineage_accounts_for_every_row_read(finished, latest):
    lineage = pl.read_parquet(latest / "lineage.parquet")
    ingested = pl.read_parquet(
        finished[0] / "snapshots" / "2026-01-01" / "ingested" / "lineage.parquet"
    )
    assert (lineage["rows"] >= 0).all()
    read = ingested.group_by("file").agg(pl.col("rows").sum()).sort("file")
    assert lineage.group_by("file").agg(pl.col("rows").sum()).sort("file").equals(read)
    assert "quarantined" in lineage["outcome"].to_list()


def test_planted_wrong_rows_are_in_quarantine(finished, latest):
    planted = pl.read_csv(finished[0] / "demo-hospital" / "wrong_rows.csv", infer_schema=False)
    quarantine = pl.concat(
        pl.read_parquet(file, columns=["rule", "reason", "source_file", "source_row"])
        for file in (latest / "quarantine").glob("*.parquet")
    )
    assert quarantine["reason"].str.len_chars().min() > 5
    # A planted row may lie in a stay or for a code that is out of scope; what is in scope must have
    # been caught.
    caught = set(quarantine["rule"])
    assert len(caught) >= 4, caught
    assert len(planted) > 0
    for file in (latest / "quarantine").glob("*.parquet"):
        assert file.stat().st_mode & 0o077 == 0, f"{file} can be read by others"
    assert (latest / "quarantine").stat().st_mode & 0o777 == 0o700


def test_every_check_passed_and_can_be_read_offline(finished, latest):
    page = (latest / "validation.html").read_text()
    assert page == (finished[0] / "snapshots" / "2026-01-01" / "validation.html").read_text()
    assert "failed</span>" not in page
    assert "Rules: whether the kept rows hold it" in page


def test_model_is_registered_and_scores_raw_inputs(finished):
    script = f"""
import os
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///{finished[0]}/mlflow/mlflow.db")
versions = mlflow.MlflowClient().search_model_versions("name='m3h'")
assert [v.version for v in versions] in (["1"], [1]), versions
assert versions[0].tags["validation_status"] == "pending"
run = mlflow.get_run(versions[0].run_id)
assert run.data.tags["dagster.partition"] == "2026-01-01" and run.data.params and run.data.metrics
model = mlflow.pyfunc.load_model("models:/m3h/1")
rows = pd.DataFrame({{
    "age": [71.0, 45.0], "sex": ["F", None],
    "events": [[{{"code": "heart_rate", "hours": -2.0, "value": 92.0}}], []],
    "notes": [[{{"hours": -3.0, "text": "Chest radiograph. Small left effusion."}}], []],
}})
scores = model.predict(rows)
assert len(scores) == 2 and scores.notna().all().all(), scores
print(",".join(scores.columns))
"""
    columns = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=finished[0]
    ).stdout
    assert "death_in_hospital" in columns


def test_registered_model_gives_the_run_s_own_predictions(finished, latest):
    """The model in the registry, fed raw inputs, says what the run's model says of new patients,
    calibrated; and that model what predictions.parquet says of those that each fold did not see.
    """
    script = f"""
from pathlib import Path
import mlflow, numpy as np, polars as pl
from m3h_core import Calibrator, Cohort, EnsembleModel
from m3h_pipeline.features.served import raw_inputs
mlflow.set_tracking_uri("sqlite:///{finished[0]}/mlflow/mlflow.db")
snapshot = Path("{finished[0]}/snapshots/2026-01-01")
rows = pl.read_parquet("{latest}/predictions.parquet")
rows = rows.filter(pl.col("task") == "death_in_hospital")
(frame,) = raw_inputs(snapshot / "inputs", rows["sample_id"].to_list()[:20])
scores = mlflow.pyfunc.load_model("models:/m3h/1").unwrap_python_model().predict(None, frame)
calibrator = Calibrator.load(snapshot / "ensemble_model" / "calibration")
cohort = Cohort.load(snapshot / "cohort")
assert rows["sample_id"].to_list() == cohort.sample_ids
model = EnsembleModel.load(snapshot / "ensemble_model" / "model")
assert model.recurrent is not None  # the hospital has time series
assert not scores["lacks"].map(lambda lacking: "series" in lacking).any()
predicted = {{"death_in_hospital": model.predict(cohort)["death_in_hospital"]}}
expected = calibrator.calibrated(predicted)["death_in_hospital"][:20]
unseen = model.predict_unseen(cohort)["death_in_hospital"]
print(float(np.abs(scores["death_in_hospital"].to_numpy() - expected).max()))
print(float(np.abs(rows["prediction"].to_numpy() - unseen).max()))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    differences = [float(line) for line in result.stdout.split()]
    assert len(differences) == 2
    assert max(differences) < 1e-4


def test_second_run_takes_everything_as_it_is(finished):
    out, _ = finished
    before = {
        name: (out / "latest" / name).read_bytes()
        for name in ("metrics.json", "tim.json", "report.html")
    }
    started = time.monotonic()
    log = run("run", "--verbose", "--out", out).stderr
    assert time.monotonic() - started < 120  # nothing is trained: a bound, not a measurement
    assert re.search(r"DEBUG .* m3h_model - STEP_START", log)
    assert re.search(r"INFO .* m3h_model - m3h_model: unchanged, taken as it is", log)
    assert {name: (out / "latest" / name).read_bytes() for name in before} == before
    from mlflow import MlflowClient

    assert (
        len(MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db").search_model_versions("name='m3h'"))
        == 1
    )


def score_anew(out: Path) -> pl.DataFrame:
    """Scores that are computed, not taken as they were."""
    for step in out.glob("snapshots/*/scores"):
        shutil.rmtree(step)
    run("score", "--out", out)
    return pl.read_parquet(out / "latest" / "scores.parquet")


def test_after_approval_the_next_run_says_champion_and_a_moved_or_copied_folder_scores_the_same(
    demo_run, finished, tmp_path
):
    assert (
        "version 1 passed the gate and waits for review: m3h review approve 1 --out "
        in finished[1].stdout
    )
    out = demo_run.copy_to(tmp_path / "first")
    approved = run("review", "approve", "--reviewer", "Ada", "--out", out).stdout
    assert "version 1, approved by Ada: champion" in approved
    with watch_files(out.parent, lambda folder: is_of_snapshots(folder, out)) as events:
        screen = run("run", "--out", out).stdout
    assert "version 1 is the champion" in screen
    assert "review" not in screen
    # Beside its inputs, the cohort that the champion has learned from.
    read = steps_read(events, out / "snapshots" / "2026-01-01")["scores"]
    assert read == declared_steps()["scores"] | {"cohort"}
    scores = pl.read_parquet(out / "latest" / "scores.parquet")
    assert set(scores["model_version"]) == {"1"}

    moved = out.rename(tmp_path / "moved")
    assert score_anew(moved).equals(scores)
    copied = Path(shutil.copytree(moved, tmp_path / "copied"))
    # Whatever read the original now would fail, or score without images.
    for file in (moved / "mlflow" / "artifacts").rglob("*.safetensors"):
        file.write_bytes(b"not a model")
    shutil.rmtree(moved / "demo-hospital" / "cxr")
    assert scores["lacks"].list.contains("vision").mean() < 1
    assert score_anew(copied).equals(scores)
    shutil.rmtree(moved / "snapshots" / "2026-01-01" / "scores")
    spoiled = run("score", "--out", moved, check=False)
    assert spoiled.returncode == 1
    assert (
        "the files of version 1 of m3h in MLflow are not those that were approved" in spoiled.stderr
    )


def test_a_forgotten_patient_is_in_no_file_and_the_next_run_goes_on(demo_run, finished, tmp_path):
    out = demo_run.copy_to(tmp_path / "first")
    # A patient with a note that names a stay which does not exist.
    notes = pl.read_parquet(out / "latest" / "quarantine" / "notes.parquet").filter(
        pl.col("rule") == "unknown_stay"
    )
    patient = json.loads(notes["row"][0])["note_id"].split("-")[0]
    samples = pl.read_parquet(
        out / "snapshots" / "2026-01-01" / "valid_samples" / "samples.parquet"
    )
    patient_rows = samples.filter(pl.col("subject_id") == patient)
    words = [patient, *patient_rows["stay_id"]]
    assert len(words) > 1
    assert patient_rows["split"][0] != 3
    assert len(files_with(out, words)) > 20

    forgotten = run("forget", patient, "--out", out, "--yes")
    assert "m3h version 1 (challenger) had learned from them" in forgotten.stdout
    assert re.search(r"embedding cache: [1-9]", forgotten.stdout)
    assert files_with(out, words) == []
    metrics = (out / "latest" / "metrics.json").read_bytes()
    run("run", "--out", out)
    assert files_with(out, words) == []
    assert (out / "latest" / "metrics.json").read_bytes() == metrics
    snapshot = out / "snapshots" / "2026-01-01"
    valid = {
        table: step
        for table, folder in find_valid_folders(snapshot).items()
        if (step := read_step(folder))
    }
    assert count_erased(valid)["samples"] == len(patient_rows)
    lineage = pl.read_parquet(out / "latest" / "lineage.parquet")
    tables = (snapshot / folder / "samples.parquet" for folder in ("ingested", "valid_samples"))
    flow = count_sample_flow(lineage, *tables)
    left = len(Cohort.load(snapshot / "cohort"))
    assert (
        flow["samples"]
        == sum(file["own"] for file in flow["files"])
        == left
        == len(samples) - len(patient_rows)
    )
    rows_now = (
        pl.read_parquet(out / "latest" / "lineage.parquet")
        .group_by("file")
        .agg(pl.col("rows").sum())
        .sort("file")
    )
    before = (
        pl.read_parquet(finished[0] / "latest" / "lineage.parquet")
        .group_by("file")
        .agg(pl.col("rows").sum())
    )
    assert rows_now.equals(before.sort("file"))
    from mlflow import MlflowClient

    version = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db").get_model_version("m3h", "1")
    assert version.tags["m3h.forgotten_patients"] == "1"
