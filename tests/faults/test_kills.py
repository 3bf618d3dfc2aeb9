"""Real processes, killed at random epochs: the next run goes on, ends with the same weights, and
leaves no trace.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from launched import (
    TASKS,
    environment,
    epochs_done,
    finish,
    kill,
    materialize,
    prepared,
    processes_of,
    same,
    serve_mlflow,
    step_of,
    synthetic,
    wait_until,
    weights,
    worker_of,
)
from safetensors import safe_open
from safetensors.numpy import load_file

from m3h_core import cross_fit, fit, with_folds
from m3h_pipeline.jobs.job import FACTS
from m3h_pipeline.jobs.settings import fit_config
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.mlflow_store import mlflow_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

# Of trees, a task.
MODELS = 2

EPOCHS = 60
# All epochs are trained: stopped early, a training could end before its last death.
NOT_STOPPED_EARLY = {"patience": EPOCHS}
# MLflow takes its system metrics every ten seconds, more than a training here has.
SAMPLED = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.2"}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kills") / "out"
    out = prepared(folder, training={"epochs": EPOCHS}, model=NOT_STOPPED_EARLY)
    yield out
    for pid in processes_of(out):  # where a test has failed
        kill(pid)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unbroken() -> dict[str, np.ndarray]:
    settings = {"training": {"seed": 0, "epochs": EPOCHS}, "model": NOT_STOPPED_EARLY}
    model = fit(synthetic(), TASKS, fit_config(settings))
    return {name: value.numpy() for name, value in model.model.state_dict().items()}


def runs_in_mlflow(out: Path) -> list:
    import mlflow

    mlflow.set_tracking_uri(mlflow_uri(out))
    return mlflow.search_runs(experiment_names=[tracking.EXPERIMENT], output_format="list")


def kill_worker(run: subprocess.Popen, out: Path) -> None:
    pid = worker_of(out)
    assert pid
    kill(pid)


def kill_group(run: subprocess.Popen, out: Path) -> None:
    os.killpg(run.pid, signal.SIGKILL)


def kill_dagster(run: subprocess.Popen, out: Path) -> None:
    kill(run.pid)


def ask_worker(run: subprocess.Popen, out: Path) -> None:
    pid = worker_of(out)
    assert pid
    kill(pid, signal.SIGTERM)


def cancel(run: subprocess.Popen, out: Path) -> None:
    """What Dagster's run launcher does when a run is cancelled in the UI."""
    kill(run.pid, signal.SIGINT)


WAYS = [kill_worker, kill_group, kill_dagster, ask_worker, cancel]


def test_a_training_that_is_killed_in_every_way_ends_as_if_it_never_was(out):
    """One training, five deaths at random epochs, each followed by a run that goes on."""
    ways = random.sample(WAYS, len(WAYS))
    story = []
    for way in ways:
        at = epochs_done(out) + random.randrange(1, 4)
        story.append((way.__name__, at))
        run = materialize(out, **SAMPLED)
        wait_until(lambda at=at, run=run: epochs_done(out) >= at or run.poll() is not None)
        assert run.poll() is None, (story, (out / "run.log").read_text()[-4000:])
        way(run, out)
        assert run.wait(60) != 0, story
        assert not step_of(out, "m3h_model").exists(), story
        checkpoint = step_of(out, ".m3h_model.partial") / ".checkpoint"
        state = checkpoint / "model" / "0" / "training.safetensors"
        if (
            way is not kill_dagster
        ):  # after this one the next run starts at once, and waits where it must
            wait_until(lambda: not processes_of(out), seconds=20)
            with safe_open(state, framework="np") as stored:
                about = json.loads(stored.metadata()["about"])
            assert about["epoch"] >= 1, story
            if way in (ask_worker, cancel):
                assert about["epoch"] + bool(about["batch"]) >= at, (
                    story,
                    "asked to end, it wrote no state",
                )
        if way is kill_worker:
            assert "ran out of memory: set [launcher] workers = 1" in (out / "run.log").read_text()
    finish(materialize(out, **SAMPLED), out)
    assert same(weights(out), unbroken()), story
    wait_until(lambda: not processes_of(out), seconds=20)
    assert not step_of(out, ".m3h_model.partial").exists()
    (run,) = runs_in_mlflow(out)
    assert run.info.status == "FINISHED"
    facts = json.loads((step_of(out, "m3h_model") / FACTS).read_text())
    assert facts["mlflow_run"] == run.info.run_id
    assert steps_of(run, "train_loss") == list(range(facts["epochs"])), story
    assert facts["epochs"] == EPOCHS
    sampled = steps_of(run, "system/cpu_utilization_percentage")
    assert (
        sampled
        == steps_of(run, "system/system_memory_usage_megabytes")
        == list(range(len(sampled)))
    ), story
    assert len(sampled) >= 2  # of a killed one the last are lost
    named = {
        *run.data.metrics,
        *run.data.params,
        *run.data.params.values(),
        *run.data.tags.values(),
    }
    assert not [word for word in named if socket.gethostname() in word]


def steps_of(run: Run, metric: str) -> list[int]:
    from mlflow import MlflowClient

    return [point.step for point in MlflowClient().get_metric_history(run.info.run_id, metric)]


def job_by_hand(
    cohort: Path,
    to: Path,
    arm: str,
    prefix: str = "pass",
    more: dict | None = None,
    **variables: str,
) -> subprocess.Popen:
    to.mkdir(parents=True, exist_ok=True)
    config = {
        "arm": arm,
        "cohort": str(cohort),
        "tasks": [task.to_dict() for task in TASKS],
        "to": str(to),
        "workers": 1,
        "training": {"seed": 0, "epochs": 20, "tree_rounds": 20, "coverage": 0.9},
        "model": {},
        **(more or {}),
    }
    (to / "job.json").write_text(json.dumps(config))
    code = f"import sys; from m3h_pipeline.jobs import train; {prefix}; train.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--config", str(to / "job.json")],
        env=environment(to, **variables),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_mlflow_that_goes_away_ends_a_training_clearly_and_nothing_is_trained_again(out, tmp_path):
    """All epochs are done without it; its own thread, which finds nobody, holds nobody up."""
    (tmp_path / "mlflow").mkdir()
    variables = SAMPLED | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

    def train(uri: str) -> subprocess.Popen:
        more = {
            "mlflow": {"uri": uri, "artifacts": str(tmp_path), "key": "k", "name": "n", "tags": {}}
        }
        return job_by_hand(
            step_of(out, "cohort"), tmp_path / "to", "joint", "pass", more, **variables
        )

    curves = tmp_path / "to" / ".curves.jsonl"
    with serve_mlflow(tmp_path / "mlflow") as uri:
        job = train(uri)
        wait_until(lambda: curves.exists() or job.poll() is not None)
    _, messages = job.communicate(timeout=60)
    assert job.returncode == 1, messages
    # On a slow machine a line of progress comes first.
    assert messages.splitlines()[-1].startswith("error: MLflow failed: API request to"), messages
    assert "Traceback" not in messages
    epochs = len(curves.read_text().splitlines())
    with serve_mlflow(tmp_path / "mlflow") as uri:
        job = train(uri)
        assert job.wait(60) == 0, job.communicate()
        import mlflow

        mlflow.set_tracking_uri(uri)
        (run,) = mlflow.search_runs(experiment_names=[tracking.EXPERIMENT], output_format="list")
        assert run.info.status == "FINISHED"
        assert steps_of(run, "train_loss") == list(range(epochs))
    assert len(curves.read_text().splitlines()) == epochs


def test_a_training_killed_in_its_second_fold_goes_on_there(tmp_path):
    """The first fold's model is not trained again, and the curves are its own, once."""
    cohort = with_folds(synthetic(600), 2)
    cohort.save(tmp_path / "cohort")
    mlflow_of = {"uri": mlflow_uri(tmp_path), "artifacts": str(tmp_path / "mlflow")}
    (tmp_path / "mlflow").mkdir()
    more = {
        "mlflow": {**mlflow_of, "key": "k", "name": "n", "tags": {}},
        "training": {"seed": 0, "epochs": 6, "tree_rounds": 20, "coverage": 0.9},
    }
    to = tmp_path / "to"
    epochs = tmp_path / "epochs"
    log = f"open({str(epochs)!r}, 'a').write(name[18:19] + ' ')"
    joint_model = "from m3h_pipeline.jobs import joint_model"
    spy = f"{joint_model}; joint_model.Progress = lambda name, _: lambda done, total: {log}"
    kill_there = "name[18:19] == '2' and done == 3 and os.kill(os.getpid(), 9)"
    suicide = (
        f"import os; {joint_model}; "
        f"joint_model.Progress = lambda name, _: lambda done, total: {kill_there}"
    )
    job = job_by_hand(tmp_path / "cohort", to, "joint", suicide, more)
    assert job.wait(120) == -signal.SIGKILL, job.communicate()
    again = job_by_hand(tmp_path / "cohort", to, "joint", spy, more)
    assert again.wait(120) == 0, again.communicate()
    assert set(epochs.read_text().split()) == {"2"}
    assert 3 <= len(epochs.read_text().split()) < 6
    settings = {"training": {"seed": 0, "epochs": 6}, "model": {}}
    whole = cross_fit(cohort, TASKS, fit_config(settings))
    for fold, model in enumerate(whole.models):
        state = {name: value.numpy() for name, value in model.model.state_dict().items()}
        assert same(load_file(to / "model" / str(fold) / "model.safetensors"), state)
    predicted = load_file(to / "predictions.safetensors")
    for task, values in whole.predict_unseen(cohort).items():
        np.testing.assert_array_equal(predicted[task], values)
    (run,) = runs_in_mlflow(tmp_path)
    assert run.info.status == "FINISHED"
    assert steps_of(run, "train_loss") == list(range(6))


def test_two_jobs_never_write_into_one_folder(out, tmp_path):
    """The second waits for the first, and both end well."""
    cohort = step_of(out, "cohort")
    to = tmp_path / "to"
    jobs = [job_by_hand(cohort, to, "single_task") for _ in range(2)]
    messages = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], messages
    assert sum("waiting for an earlier job" in words for words in messages) == 1


def test_single_task_models_go_on_after_a_kill(out, tmp_path):
    cohort = step_of(out, "cohort")
    whole = job_by_hand(cohort, tmp_path / "whole", "single_task")
    job = job_by_hand(cohort, tmp_path / "killed", "single_task")
    wait_until(
        lambda: list((tmp_path / "killed" / ".chunks").rglob("chunk-*")) or job.poll() is not None
    )
    kill(job.pid)
    job.communicate()
    again = job_by_hand(cohort, tmp_path / "killed", "single_task")
    for one in (whole, again):
        assert one.wait(120) == 0
    for task in TASKS:
        files = [
            tmp_path / name / "models" / task.name / "0" / "model.safetensors"
            for name in ("whole", "killed")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "killed" / ".chunks").exists()


def test_trees_go_on_after_a_kill(out, tmp_path):
    """What was finished is kept as it is; the rest is trained; all ends with the bytes of an
    unbroken run.

    The killed run has two workers, the others one, as `[launcher] workers` may say.
    """
    cohort = step_of(out, "cohort")
    killed = tmp_path / "killed"
    children = tmp_path / "children"
    count = f"open({str(children)!r}, 'a').write(f'{{len(psutil.Process().children())}} ')"
    counting = f"import psutil; train.Progress = lambda *_: lambda *_: {count}"
    whole = job_by_hand(cohort, tmp_path / "whole", "trees", counting)
    two = {"workers": 2}
    # Killed as soon as it hears of a finished task.
    suicide = "import os; train.Progress = lambda *_: lambda *_: os.kill(os.getpid(), 9)"
    assert job_by_hand(cohort, killed, "trees", suicide, two).wait(120) == -signal.SIGKILL
    wait_until(lambda: not processes_of(killed), seconds=20)
    kept = sorted((killed / ".trees").glob("*.txt"))
    assert kept
    # A worker may have come to its end before it saw that its job is gone: let one model be
    # half-done in any case.
    if len(kept) == MODELS * len(TASKS):
        lost = kept.pop()
        lost.rename(lost.with_suffix(".partial")).write_text("tree")
    trained = tmp_path / "trained"
    log = f"open({str(trained)!r}, 'a').write(task.name + ' ')"
    spy = (
        "from m3h_core.ensemble import trees; train_one = trees._train; "
        f"trees._train = lambda x, rows, labels, task, *more: ({log}, "
        "train_one(x, rows, labels, task, *more))[1]"
    )
    again = job_by_hand(cohort, killed, "trees", spy)
    for one in (whole, again):
        assert one.wait(120) == 0, one.communicate()
    assert set(children.read_text().split()) == {"0"}, "more processes than [launcher] workers"
    files = ["predictions.safetensors"]
    files += [f"models/0/{task.name}-{at}.txt" for task in TASKS for at in range(MODELS)]
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (killed / file).read_bytes()
    finished = Counter(file.name.rpartition("-")[0] for file in kept)
    expected = Counter({task.name: MODELS for task in TASKS}) - finished
    assert Counter(trained.read_text().split()) == expected
    assert not (killed / ".trees").exists()


@pytest.mark.parametrize("allocation", ["numpy.empty(1 << 50)", "torch.empty(1 << 50)"])
def test_too_little_memory_is_said_with_what_to_change(out, tmp_path, allocation):
    """With the libraries' own errors: more is asked of them than any machine has."""
    prefix = f"import numpy, torch; train.ARMS['trees'] = lambda *_: {allocation}"
    job = job_by_hand(step_of(out, "cohort"), tmp_path, "trees", prefix)
    _, messages = job.communicate(timeout=120)
    assert job.returncode == 1
    assert messages.startswith("error: out of memory. ")
    assert "[launcher] workers = 1" in messages
    assert "Traceback" not in messages
