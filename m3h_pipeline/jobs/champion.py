"""Predict the samples of a snapshot that are judged with a registered version: its own embedders,
its own model, as far as it did not see their patients.

Configuration: ``mlflow`` {uri, artifacts}, ``version``, ``approved``
(m3h_pipeline/registry/digests.py), ``inputs`` (folder of the as-of inputs), ``cohort`` (folder),
``cache`` (folder of embeddings, which changes no result), ``to``. Writes ``champion.safetensors``:
{task: [N] or [N, classes]} for every sample of the cohort, NaN where it may have seen the patient,
or where nothing is judged.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core import Cohort, EnsembleModel, FittedModel, load_model
from m3h_core.data.cohort import SERIES, TEST, TIMESERIES
from m3h_core.embedders import Embedder, GivenEmbedder, load_embedder
from m3h_core.embedders.tabular import CODES
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.items import is_given, modality_items, take
from m3h_pipeline.jobs.job import FACTS, Log, run_job
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.digests import fetch_approved
from m3h_pipeline.state.data_files import write_arrays, write_json
from m3h_pipeline.state.steps import open_scratch_folder
from m3h_pipeline.wording import pluralize

FILE = "champion.safetensors"


def predict(config: dict[str, Any], log: Log) -> dict[str, Any]:
    """Load, embed, predict, write; returns counts."""
    version = config["version"]
    to = Path(config["to"])
    inputs = Path(config["inputs"])
    cache = Path(config["cache"])
    cohort = Cohort.load(config["cohort"])
    model, embedders = load(version, config["approved"], config["mlflow"], to)
    rows = find_unseen_rows(cohort, model)
    embedded = {}
    for name, embedder in embedders.items():
        embedder.cache = cache
        log(f"version {version}: {name} of {pluralize(len(rows), 'sample')}")
        modality = TIMESERIES if name == SERIES else name
        embedded[name] = embedder.transform(_items(modality, embedder, inputs, rows))
    series, _ = embedded.pop(SERIES, (None, None))
    part = replace(
        cohort.take(rows),
        embeddings={name: vectors for name, (vectors, _) in embedded.items()},
        present={name: is_present for name, (_, is_present) in embedded.items()},
        series=series,
    )
    scored = model.predict_unseen(part) if isinstance(model, EnsembleModel) else model.predict(part)
    predictions = {}
    for task, values in scored.items():
        predictions[task] = np.full((len(cohort), *values.shape[1:]), np.nan)
        predictions[task][rows] = values
    write_arrays(to / FILE, predictions)
    return {
        "version": version,
        "samples": len(rows),
        "tasks": len(predictions),
        "folds": count_folds(model),
    }


def find_unseen_rows(cohort: Cohort, model: FittedModel | EnsembleModel) -> np.ndarray:
    """The row numbers [n] that are judged and of which the model has a prediction that did not see
    the patient: of one without folds those of the test split alone.
    """
    return (cohort if count_folds(model) > 1 else replace(cohort, fold=None)).rows(TEST)


def count_folds(model: FittedModel | EnsembleModel) -> int:
    """How many folds the model's cohort had; 1 where it was judged on a test split."""
    return model.n_folds if isinstance(model, EnsembleModel) else 1


def load(
    version: str, approved: dict[str, Any], mlflow_config: dict[str, str], to: Path
) -> tuple[FittedModel | EnsembleModel, dict[str, Embedder]]:
    """The model and the embedders of a registered version, for the step that is made in ``to``.

    Raises `InputError` where MLflow no longer holds them, or holds others than were ``approved``.
    """
    import mlflow
    from safetensors import SafetensorError

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    tracking.connect(mlflow_config["uri"], Path(mlflow_config["artifacts"]))
    try:
        with open_scratch_folder(to) as private:
            folder = fetch_approved(version, approved, private) / "artifacts"
            model = load_model(folder / "model")
            parts = sorted((folder / "embedders").iterdir())
            embedders = {part.name: load_embedder(part) for part in parts}
    except (mlflow.MlflowException, OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"version {version} can't be loaded from MLflow: {str(error).splitlines()[0]}"
        ) from error
    return model, embedders


def _items(modality: str, embedder: Embedder, inputs: Path, rows: np.ndarray) -> Any:
    """The items of some samples in the form that this embedder was fitted on."""
    if isinstance(embedder, GivenEmbedder) != is_given(modality, inputs):
        now, then = (
            ("raw", "given vectors")
            if isinstance(embedder, GivenEmbedder)
            else ("given vectors", "raw")
        )
        raise InputError(
            f"{modality} is {now} in this snapshot and was {then} when the version learned"
        )
    items = take(modality_items(modality, inputs), rows)
    if modality != "tabular" or isinstance(embedder, GivenEmbedder):
        return items
    # A column that this snapshot lacks is missing, as it would be for a served model.
    nothing = np.full(len(rows), None, dtype=object)
    names: list[str] = embedder.columns  # ty: ignore[missing-attribute]
    columns = {name: items.get(name, nothing) for name in names}
    return columns | {name: values for name, values in items.items() if name == CODES}


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        write_json(Path(config["to"]) / FACTS, predict(config, log))


if __name__ == "__main__":
    main()
