"""The task interaction job, run by hand as a launcher runs it."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient
from report_example import example

from m3h_core import (
    Cohort,
    FitConfig,
    FittedModel,
    TaskInteraction,
    TaskSpec,
    cross_fit,
    with_folds,
)
from m3h_core.tim import TaskSetEvaluator
from m3h_core.training.cross_fit import cross_fit_many
from m3h_pipeline import config as configuration
from m3h_pipeline import defs
from m3h_pipeline.config import ModelConfig, TimConfig, TrainingConfig
from m3h_pipeline.defs.io_manager import step_io_manager
from m3h_pipeline.defs.reports import _chart_interaction
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.jobs.settings import fit_config
from m3h_pipeline.jobs.tim import average_attention, build_report, select_samples
from m3h_pipeline.registry import tracking
from m3h_pipeline.sources.splits import split_of
from m3h_pipeline.state.steps import produce

pytestmark = pytest.mark.slow(30)

SETTINGS = {
    "training": TrainingConfig(epochs=6).model_dump(),
    "model": ModelConfig().model_dump(),
}
TASKS = [TaskSpec(name, "binary") for name in ("sepsis", "shock", "delirium", "rare")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """One task has too few positives to be shown."""
    return train_models(tmp_path_factory.mktemp("tim"), n_folds=0)


def train_models(folder: Path, n_folds: int, **model: object) -> Path:
    """A cohort of 400 with the models of the training step; ``model``: settings of theirs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)).astype(np.float32)
    labels = {
        task.name: (x[:, i] + x[:, 5] + rng.logistic(size=400) > 0.5).astype(float)
        for i, task in enumerate(TASKS)
    }
    split = rng.choice(4, 400, p=[0.5, 0.15, 0.1, 0.25])
    labels["rare"][(split == 3) & (np.cumsum(labels["rare"] * (split == 3)) > 5)] = 0
    all_labelled = {name: np.ones(400, bool) for name in labels}
    cohort = Cohort(
        [str(i) for i in range(400)],
        split,
        {"x": x},
        {"x": np.ones(400, bool)},
        labels,
        all_labelled,
    )
    cohort = with_folds(cohort, n_folds)
    cohort.save(folder / "cohort")
    config = replace(fit_config(SETTINGS), **model)
    cross_fit(cohort, TASKS, config).save(folder / "joint" / "model")
    by_task = cross_fit_many(cohort, [([task], config) for task in TASKS])
    for task, models in zip(TASKS, by_task, strict=True):
        models.save(folder / "single_task" / "models" / task.name)
    return folder


def start(trained: Path, to: Path, **settings: object) -> subprocess.Popen:
    to.mkdir(exist_ok=True)
    job = {name: str(trained / name) for name in ("cohort", "joint", "single_task")} | {
        "tasks": [task.to_dict() for task in TASKS],
        **SETTINGS,
        "tim": TimConfig.model_validate(settings).model_dump(),
        "folds": 3,
        "to": str(to),
    }
    (to / "job.json").write_text(json.dumps(job))
    return subprocess.Popen(
        [sys.executable, "-m", "m3h_pipeline.jobs.tim", "--config", str(to / "job.json")],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
    )


def run(trained: Path, to: Path, **settings: object) -> dict:
    job = start(trained, to, **settings)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    return json.loads((to / "tim.json").read_text())


def test_every_cell_is_there_and_small_groups_are_hidden(trained, tmp_path):
    record = run(trained, tmp_path)
    assert record["tasks"] == [task.name for task in TASKS]
    assert record["n"][3] is None
    assert record["n"][0] > 10
    assert record["matrix"][3] == [None] * 4
    assert record["single"][3] is None
    assert record["gain"][3] == [None] * 4
    assert record["joint_learning"]["gain"][3] is None
    assert record["joint_learning"]["gain"][0] is not None
    assert record["groups"] is None  # no effect survives
    assert record["leave_one_out"] is None
    assert (record["attention"] is not None) == fit_config(SETTINGS).attention
    table = pl.read_parquet(tmp_path / "tim.parquet")
    assert len(table) == 4 * 3
    cell = table.filter((pl.col("task") == "sepsis") & (pl.col("other") == "shock")).row(
        0, named=True
    )
    assert cell["value"] == record["matrix"][0][1]
    assert cell["evidence"] == record["evidence"][0][1]
    assert table.filter(pl.col("task") == "rare")["value"].null_count() == 3
    assert not (tmp_path / ".chunks").exists()


def test_what_the_joint_model_reads_is_averaged_over_who_is_judged(tmp_path):
    """In each fold by its own model; nothing is said of a task with too few labels."""
    folder = train_models(tmp_path, n_folds=2, attention=True, normalization="learned")
    cohort = Cohort.load(folder / "cohort")
    attention = average_attention(folder / "joint", cohort)
    assert attention["tasks"] == [task.name for task in TASKS]
    total = np.zeros((4, 4))
    for fold in range(2):
        model = FittedModel.load(folder / "joint" / "model" / str(fold))
        rows = np.flatnonzero(cohort.fold == fold)
        total += sum(model.attention(cohort, np.array([row])) for row in rows)
    np.testing.assert_allclose(attention["weights"][:3], total[:3] / len(cohort), atol=1e-5)
    np.testing.assert_allclose(np.sum(attention["weights"][:3], axis=1), 1, atol=1e-5)


def test_nothing_is_said_of_what_few_patients_read_or_without_attention(tmp_path):
    folder = train_models(tmp_path / "on", n_folds=0, attention=True)
    cohort = Cohort.load(folder / "cohort")
    attention = average_attention(folder / "joint", cohort)
    assert attention["weights"][3] == [None] * 4
    judged = np.flatnonzero(cohort.split == 3)
    few = np.concatenate([np.flatnonzero(cohort.split != 3), judged[:9]])
    assert average_attention(folder / "joint", cohort.take(few)) is None
    without = train_models(tmp_path / "off", n_folds=0, attention=False)
    assert average_attention(without / "joint", cohort) is None


def test_the_models_of_the_training_step_are_used_as_they_are(trained, tmp_path):
    """With the model's own network and seed, only pairs, groups and left-out models are trained."""
    record = run(trained, tmp_path, network="model", seeds=1)
    assert record["models"] == 6


def test_where_an_effect_survives_groups_are_tried_and_tasks_left_out(trained, monkeypatch):
    """Of a task with too few labels nothing is said there either."""
    every_cell = property(lambda self: ~np.eye(4, dtype=bool))
    monkeypatch.setattr(TaskInteraction, "evidence_TT", every_cell)
    cohort = Cohort.load(trained / "cohort")
    network = FitConfig(hidden=(8,), members=1, epochs=3)
    evaluator = TaskSetEvaluator(cohort, TASKS, network, [0])
    settings = TimConfig(leave_out=2).model_dump()
    record = build_report(evaluator, evaluator, settings, lambda _: None)
    grouped = itertools.chain.from_iterable(record["groups"]["tasks"])
    assert sorted(grouped) == sorted(task.name for task in TASKS)
    left_out = record["leave_one_out"]
    assert len(left_out["tasks"]) == 2
    for name in ("matrix", "low", "high", "gain"):
        assert left_out[name][3] == [None, None]
    assert left_out["evidence"][3] == [False, False]
    assert record["evidence"][3] == [False] * 4


def test_all_patients_of_a_cross_fitted_cohort_judge(tmp_path):
    """The models of the training step are used as they are."""
    folder = train_models(tmp_path / "trained", n_folds=2)
    record = run(folder, tmp_path / "to", network="model", seeds=1, groups=0, leave_out=0)
    stopped = sum(map(sum, record["stopped"])) // 2
    assert record["models"] == 6 + 6 - stopped
    assert record["n"][0] == len(Cohort.load(folder / "cohort"))


def test_of_a_large_cohort_so_many_samples_are_drawn_and_cross_fitted(trained):
    cohort = Cohort.load(trained / "cohort")
    split = np.array([split_of(subject) for subject in cohort.subjects])
    by_hash = replace(cohort, split=split)
    drawn = select_samples(by_hash, 300, 3)
    assert 250 < len(drawn) <= 300
    assert drawn.n_folds == 3
    assert select_samples(by_hash, 400, 3) is by_hash
    # A split that the data gives is there to be judged by.
    assert select_samples(cohort, 300, 3).fold is None


def test_a_killed_job_goes_on_where_it_was(trained, tmp_path):
    whole = run(trained, tmp_path / "whole", seeds=3)
    job = start(trained, tmp_path / "killed", seeds=3)
    chunks = tmp_path / "killed" / ".chunks"
    until = time.monotonic() + 120
    while len(list(chunks.glob("chunk-*"))) < 2 and job.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate(timeout=60)  # its workers hold the pipe until they are gone too
    assert not (tmp_path / "killed" / "tim.json").exists()
    kept = {file.name for file in chunks.glob("chunk-*")}
    assert kept
    assert run(trained, tmp_path / "killed", seeds=3) == whole


def test_a_single_task_is_refused_in_one_line(trained, tmp_path):
    job = start(trained, tmp_path, tasks=1)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "m3h.toml: [tim] task interaction needs at least two tasks, got 1" in errors
    assert "Traceback" not in errors


def test_the_effects_that_survive_are_drawn_for_the_asset():
    tasks = [TaskSpec(task["task"], "binary") for task in example()["metrics"]["tasks"]]
    for surviving, drawn in ((0, False), (3, True)):
        charts = _chart_interaction(example(surviving=surviving)["tim"], tasks)
        assert ("effects that survive, drawn" in charts) == drawn
        assert all(chart.value.startswith("![") for chart in charts.values())


def test_the_asset_says_what_was_measured(trained, tmp_path):
    tim = TimConfig(seeds=2, groups=0, leave_out=0)
    config = configuration.Config(training=TrainingConfig(epochs=6), tim=tim)
    configuration.save(config, tmp_path)
    workspace = Workspace(out=str(tmp_path))
    workspace.connect()
    client = MlflowClient()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    facts = {"mlflow_run": client.create_run(experiment.experiment_id).info.run_id}
    for name in ("cohort", "joint", "single_task"):

        def copy(to: Path, source: Path = trained / name) -> dict[str, str]:
            shutil.copytree(source, to, dirs_exist_ok=True)
            return facts

        produce(tmp_path / "snapshots" / "2026-01-01" / name, "key", copy)
    tasks = tmp_path / "snapshots" / "2026-01-01" / "cohort" / "tasks.json"
    tasks.write_text(json.dumps([task.to_dict() for task in TASKS]))
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("snapshot", ["2026-01-01"])
    result = dg.materialize(
        dg.load_assets_from_package_module(defs),
        selection=["tim_report"],
        resources={
            "workspace": workspace,
            "launcher": JobLauncher(out=str(tmp_path)),
            "io_manager": step_io_manager,
        },
        partition_key="2026-01-01",
        instance=instance,
    )
    metadata = result.asset_materializations_for_node("tim_report")[0].metadata
    assert metadata["effects that survive"].value <= 4 * 3
    assert 0 <= metadata["pairs stopped early"].value <= 6
    assert metadata["models"].value >= 4 * 2 + 6
    assert metadata["task interaction"].value.startswith("![")
