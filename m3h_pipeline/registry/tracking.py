"""MLflow: one run for one training, found again by its tag when a run is retried."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from m3h_pipeline.errors import InputError
from m3h_pipeline.errors.endings import collect_messages, explain, wait_for_databases
from m3h_pipeline.state.mlflow_store import EXPERIMENT
from m3h_pipeline.state.pages import read_last_server

if TYPE_CHECKING:
    from mlflow.entities import Run

MODEL_NAME = "m3h"
TRAINING_TAG = "m3h.training"
# Where MLflow's pages are, for the links that runs leave in Dagster and in the report. Set by
# `m3h ui`.
PAGE_VARIABLE = "M3H_MLFLOW_PAGE"


def connect(uri: str, artifacts: Path) -> None:
    """Point MLflow at the store, with the experiment's artefacts beside it and no telemetry."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # MLflow configures its loggers when it is imported, and logs the making of its own tables.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    wait_for_databases()
    mlflow.set_tracking_uri(uri)
    if not uri.startswith("http"):  # else the server decides
        artifacts.mkdir(parents=True, exist_ok=True)
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts.resolve().as_uri())
    mlflow.set_experiment(EXPERIMENT)


@contextmanager
def start_training_run(key: str, name: str, tags: Mapping[str, str]) -> Generator[Run]:
    """The MLflow run of one training, made anew or found by its key: a retry makes no twin."""
    import mlflow

    earlier = find_run(key)
    run_id = earlier.info.run_id if earlier else None
    run_name = None if earlier else name
    # What CPU, memory, disk and GPUs do meanwhile goes into it too, by a thread of MLflow's own.
    with mlflow.start_run(run_id, run_name=run_name, log_system_metrics=True) as run:
        mlflow.set_tags({TRAINING_TAG: key, **tags})
        yield run


@contextmanager
def explain_failures() -> Generator[None]:
    """An MLflow that fails ends the work with one paragraph.

    Where it does not answer its client has tried for minutes: what is called on the way out need
    not try as long.
    """
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException  # not before `connect`: see there

        if not isinstance(error, MlflowException):
            raise
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        text = explain(collect_messages(error))
        if text is not None:
            raise InputError(text) from error
        raise InputError(
            f"MLflow failed: {error}. What was trained is kept: run again when it answers, and "
            "training goes on, in the same MLflow run"
        ) from error


def find_run(key: str) -> Run | None:
    """The run of a training by its key, or None."""
    import mlflow

    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.`{TRAINING_TAG}` = '{key}'",
        output_format="list",
    )
    return runs[0] if runs else None


def find_page(out: Path) -> str:
    """Where a person opens MLflow: the server that is connected to, else where `m3h ui` serves it,
    or last did.
    """
    import mlflow

    server = urlsplit(mlflow.get_tracking_uri())
    if server.scheme.startswith("http"):  # without a name and a password
        return server._replace(netloc=server.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return os.environ.get(PAGE_VARIABLE) or read_last_server(out).mlflow_page


def get_run_route(run_id: str, file: str = "") -> str:
    """The place of a run, or of one of its files, within MLflow's pages."""
    from mlflow import MlflowClient

    experiment = MlflowClient().get_run(run_id).info.experiment_id
    return f"#/experiments/{experiment}/runs/{run_id}" + (f"/artifacts/{file}" if file else "")


def get_version_route(version: str) -> str:
    """The place of a registered version within MLflow's pages."""
    return f"#/models/{MODEL_NAME}/versions/{version}"


def attach(run_id: str, file: Path) -> None:
    """Put a file beside the run's other artefacts."""
    from mlflow import MlflowClient

    MlflowClient().log_artifact(run_id, str(file))


def log_scores(
    run_id: str,
    model_id: str,
    metrics: Mapping[str, Any],
    comparisons: Mapping[str, Any],
    cohort: str,
) -> None:
    """All scores of metrics.json in one call, on the run, the model and the data set that they were
    measured on.

    Beside them the differences from single-task networks and trees, and the ``comparisons`` of
    detail.json; their names are those of `claims.to_metrics`. ``cohort``: the version of the
    cohort's step; of the data itself only the snapshot's name is kept.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from m3h_pipeline.evaluation.claims import to_metrics

    snapshot = metrics["snapshot"]
    data = Dataset(f"snapshot {snapshot}", cohort, "m3h", json.dumps({"snapshot": snapshot}))
    MlflowClient().log_inputs(
        run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])]
    )
    mlflow.log_metrics(
        to_metrics(metrics["tasks"], comparisons), run_id=run_id, model_id=model_id, dataset=data
    )
