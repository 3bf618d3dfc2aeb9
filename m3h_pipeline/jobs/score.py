"""Apply a registered version to the samples of a snapshot, from their raw inputs, as a server of
the model would.

Configuration: ``mlflow`` {uri, artifacts}, ``version``, ``approved``
(m3h_pipeline/registry/digests.py; null: a trial of a version that nobody approved), ``snapshot``,
``inputs`` (folder of the as-of inputs), ``samples`` (the validated table), ``learned`` (that of the
snapshot it learned from; null: no longer there), ``everyone``, ``cache`` (folder), ``to``. Writes
``scores.parquet`` (m3h_pipeline/scoring/scores.py) and, where the version has one, its
``reference.json``.

The model is loaded in this process before anything else could load m3h_core: it runs with the code
that it was registered with, whatever has changed since, and with pickle forbidden.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.features.served import FORMAT, raw_inputs
from m3h_pipeline.jobs.job import FACTS, Log, run_job
from m3h_pipeline.jobs.progress import limit_rate
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.digests import fetch_approved
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.state.steps import open_scratch_folder


def score(config: dict[str, Any], log: Log) -> dict[str, Any]:
    """Load, score, write; returns facts worth showing."""
    # The model's code lies in this copy, and is read from it as long as the job runs.
    with open_scratch_folder(Path(config["to"])) as private:
        return _score(config, log, private)


def _score(config: dict[str, Any], log: Log, private: Path) -> dict[str, Any]:
    started = time.monotonic()
    to = Path(config["to"])
    cache = Path(config["cache"])
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    tracking.connect(config["mlflow"]["uri"], Path(config["mlflow"]["artifacts"]))
    folder, served = load(config["version"], config["approved"], private)
    model = served.unwrap_python_model()
    for embedder in model.embedders.values():
        embedder.cache = cache
    learned = Path(config["learned"]) if config["learned"] else None
    who = scoring.select_samples(Path(config["samples"]), learned, config["everyone"])
    calibrator = getattr(model, "calibrator", None)
    calibrated = (
        {name for name, about in calibrator.about.items() if about.mapped} if calibrator else set()
    )
    parts = []
    done = 0
    progress = limit_rate(5, log)
    for rows in raw_inputs(Path(config["inputs"]), who["sample_id"].to_list()):
        # Not through MLflow's own predict: it checks each value against the signature, which takes
        # longer than scoring.
        scored = model.predict(None, rows)
        parts.append(
            scoring.to_long_form(
                scored, who[done : done + len(rows)], model.model.tasks, calibrated
            )
        )
        done += len(rows)
        progress(f"scores: {done} of {len(who)} samples")
    scoring.write_scores(parts, to, version=config["version"], snapshot=config["snapshot"])
    if (reference := folder / "artifacts" / "reference.json").exists():
        shutil.copy(reference, to / "reference.json")
    return {
        "model_version": config["version"],
        "samples": len(who),
        "still in hospital": int(who["still_in"].sum()),
        "new to the model": None if learned is None else int(who["new"].sum()),
        "seconds": round(time.monotonic() - started, 1),
    }


def load(version: str, approved: dict[str, Any] | None, private: Path) -> tuple[Path, Any]:
    """A registered version: its folder within ``private``, and the model that was loaded from
    there.

    Raises `InputError` where it can't be loaded, or where its files are not those that were
    ``approved``.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from safetensors import SafetensorError

    name = f"version {version} of {tracking.MODEL_NAME}"
    try:
        folder = fetch_approved(version, approved, private)
        format_number = (mlflow.models.Model.load(folder).metadata or {}).get("format", 1)
        if format_number > FORMAT:
            raise InputError(
                f"{name} is of format {format_number}, written by a later m3h; this one reads "
                f"formats up to {FORMAT}: install that later one, or let a version that this one "
                "wrote be the champion"
            )
        return folder, mlflow.pyfunc.load_model(str(folder))
    except (MlflowException, OSError, SafetensorError) as error:
        raise InputError(
            f"{name} can't be loaded from MLflow ({str(error).splitlines()[0]}): see that its "
            "artefacts are there, or let another version be the champion"
        ) from error


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        write_json(Path(config["to"]) / FACTS, score(config, log))


if __name__ == "__main__":
    main()
