"""Train one arm on the cohort: the joint model, the single-task models, or the boosted trees.

Configuration: ``arm``, ``cohort`` (folder), ``tasks``, ``training`` (section of m3h.toml), ``to``; for the joint model
also ``mlflow`` {uri, artifacts, key, name, tags}. Writes ``predictions.safetensors`` ({task: [N] or [N, classes]} for
every sample) and the trained models; beside the joint model ``calibration/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from m3h_core import Calibrator, Cohort, TaskSpec, fit, fit_many
from m3h_pipeline import tracking
from m3h_pipeline.jobs import FACTS, Log, cpu_workers, every, fit_config, job
from m3h_pipeline.jobs.trees import fit_trees
from m3h_pipeline.storage import write_arrays, write_json


def joint(cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log) -> dict[str, Any]:
    """The M3H model on all tasks, its curves and parameters in MLflow."""
    import mlflow

    training, run = config["training"], config["mlflow"]
    settings = fit_config(training)
    tracking.connect(run["uri"], Path(run["artifacts"]))
    with tracking.training_run(run["key"], run["name"], run["tags"]) as active:
        mlflow.log_params({"tasks": len(tasks), "samples": len(cohort), **settings.to_dict()})
        progress = every(5, log)
        curves: list[dict[str, Any]] = []

        def on_epoch(state: dict[str, Any]) -> None:
            curves.append(state)
            progress(f"joint model: epoch {state['epoch'] + 1} of at most {state['epochs']}")

        model = fit(cohort, tasks, settings, on_epoch=on_epoch, resume=to / ".checkpoint")
        _log_curves(active.info.run_id, curves)
    model.save(to / "model")
    predictions = model.predict(cohort)
    Calibrator.fit(cohort, model.tasks, predictions, training["coverage"]).save(to / "calibration")
    write_arrays(to / "predictions.safetensors", predictions)
    return {"epochs": len(curves), "mlflow_run": active.info.run_id}


def single_task(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """The same network, one model a task: what joint learning is compared with."""
    training = config["training"]
    settings = fit_config(training)
    progress = every(5, log)
    models = fit_many(
        cohort,
        [([task], settings) for task in tasks],
        on_progress=lambda done, total: progress(f"single-task models: {done} of {total}"),
        workers=cpu_workers(),
    )
    predictions = {}
    for task, model in zip(tasks, models, strict=True):
        model.save(to / "models" / task.name)
        predictions |= model.predict(cohort)
    write_arrays(to / "predictions.safetensors", predictions)
    return {"models": len(models)}


def trees(cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log) -> dict[str, Any]:
    """LightGBM, one model a task, on the same inputs and splits."""
    progress = every(5, log)
    training = config["training"]
    predictions = fit_trees(
        cohort,
        tasks,
        rounds=training["tree_rounds"],
        seed=training["seed"],
        to=to / "models",
        on_progress=lambda done, total: progress(f"boosted trees: {done} of {total}"),
    )
    write_arrays(to / "predictions.safetensors", predictions)
    return {"models": len(predictions)}


ARMS: dict[str, Callable[..., dict[str, Any]]] = {"joint": joint, "single_task": single_task, "trees": trees}


def main() -> None:
    """Entry point."""
    with job() as (config, log):
        started = time.monotonic()
        cohort = Cohort.load(config["cohort"])
        tasks = [TaskSpec.from_dict(record) for record in config["tasks"]]
        to = Path(config["to"])
        facts = ARMS[config["arm"]](cohort, tasks, config, to, log)
        write_json(to / FACTS, facts | {"seconds": round(time.monotonic() - started, 1)})


def _log_curves(run_id: str, curves: list[dict[str, Any]]) -> None:
    """All epochs' losses in one call."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(name, float(value), now, int(state["epoch"]))
        for state in curves
        for name, value in state.items()
        if name.endswith("valid_loss") or name == "train_loss"
        if value == value  # a task without validation labels has none
    ]
    client = MlflowClient()
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])


if __name__ == "__main__":
    main()
