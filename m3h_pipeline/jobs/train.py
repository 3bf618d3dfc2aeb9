"""Train one arm on the cohort: the joint model, single-task models, boosted trees, their ensemble,
or subsets of the modalities.

Configuration: ``arm``, ``cohort`` (folder), ``tasks``, ``training`` and ``model`` (sections of
m3h.toml), ``series_steps`` (of the cohort's series), ``to``; for the joint model also ``mlflow``
{uri, artifacts, key, name, tags}, for the ensemble ``arms`` {arm: folder}. Writes
``predictions.safetensors`` ({task: [N] or [N, classes]} for every sample, where the cohort is
cross-fitted by the model that did not see its patient) and the trained models, one a fold; beside
the ensemble ``calibration/`` and what it is compared with, ``single_task.safetensors`` and
``trees.safetensors``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from m3h_core import (
    Calibrator,
    Cohort,
    EnsembleModel,
    FittedModel,
    FoldCalibrators,
    TaskSpec,
)
from m3h_core.data.cohort import TIMESERIES, proper_subsets
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import FoldMixtures
from m3h_core.ensemble.trees import TreeModels
from m3h_core.training.cross_fit import cross_fit, cross_fit_many, cross_fit_trees
from m3h_pipeline.errors import InputError
from m3h_pipeline.evaluation.scores import Predictions
from m3h_pipeline.jobs.job import FACTS, Log, defer_signals, run_job
from m3h_pipeline.jobs.joint_model import joint, list_kinds
from m3h_pipeline.jobs.progress import Progress
from m3h_pipeline.jobs.settings import count_workers, fit_config
from m3h_pipeline.state.data_files import write_arrays, write_json
from m3h_pipeline.state.layout import (
    FOLD_CALIBRATION,
    NETWORKS,
    PREDICTIONS,
    RECURRENT_NETWORKS,
    SINGLE_TASK,
    TREES_ALONE,
)


def single_task(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """The same network, one model a task: what joint learning is compared with."""
    settings = fit_config(config)
    by_task = cross_fit_many(
        cohort,
        [([task], settings) for task in tasks],
        on_progress=Progress("single-task models:", log),
        resume=to / ".chunks",
        workers=count_workers(config),
    )
    predictions = {}
    for task, models in zip(tasks, by_task, strict=True):
        models.save(to / "models" / task.name)
        predictions |= models.predict_unseen(cohort)
    write_arrays(to / PREDICTIONS, predictions)
    shutil.rmtree(to / ".chunks")
    return {"models": len(by_task) * cohort.n_folds}


def modalities(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """The ensemble anew on each subset of the modalities but the whole: {"tabular+vision/task":
    predictions}.
    """
    done = to / ".subsets"
    done.mkdir(exist_ok=True)
    subsets = proper_subsets(cohort)
    on_progress = Progress("subsets of the modalities:", log, seconds=0)
    predictions = {}
    for at, subset in enumerate(subsets):
        on_progress(at, len(subsets))
        name = "+".join(subset)
        file = done / f"{name}.safetensors"
        checkpoint = done / name
        if not file.exists():
            some = replace(
                cohort,
                embeddings={key: cohort.embeddings[key] for key in subset},
                present={key: cohort.present[key] for key in subset},
                series=cohort.series if TIMESERIES in subset else None,
            )
            networks = {}
            for folder, kind in list_kinds(some, tasks, config).items():
                with defer_signals() as stop:
                    networks[folder] = cross_fit(
                        kind.cohort,
                        kind.tasks,
                        kind.settings,
                        resume=checkpoint / folder,
                        stop=stop,
                    )
            boosted = _fit_trees(some, tasks, config, done / f"{name}.trees")
            recurrent = networks.get(RECURRENT_NETWORKS)
            model = EnsembleModel.combine(networks[NETWORKS], boosted, some, recurrent)
            write_arrays(file, model.predict_unseen(some))
        predictions |= {f"{name}/{task}": values for task, values in load_file(file).items()}
    write_arrays(to / PREDICTIONS, predictions)
    shutil.rmtree(done)
    return {"models": len(subsets)}


def trees(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """LightGBM, each task by itself, on the same inputs and splits."""
    models = _fit_trees(cohort, tasks, config, to / ".trees", Progress("boosted trees:", log))
    models.save(to / "models")
    write_arrays(to / PREDICTIONS, models.predict_unseen(cohort))
    shutil.rmtree(to / ".trees")
    return {"models": len(models.tasks) * cohort.n_folds}


def _fit_trees(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    config: dict[str, Any],
    kept: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> FoldModels[TreeModels]:
    training = config["training"]
    return cross_fit_trees(
        cohort,
        tasks,
        rounds=training["tree_rounds"],
        seed=training["seed"],
        resume=kept,
        on_progress=on_progress,
        workers=config.get("workers", 0),
    )


def ensemble(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """The joint model and the trees as the one model that is shipped, with its calibration; beside
    it what the single-task models and the same trees say together, and the trees alone.
    """
    folders = {arm: Path(folder) for arm, folder in config["arms"].items()}
    by_arm = {arm: load_file(folder / PREDICTIONS) for arm, folder in folders.items()}
    network = FoldModels.load(folders["joint"] / NETWORKS, FittedModel.load)
    recurrent = None
    if (folders["joint"] / RECURRENT_NETWORKS).exists():
        recurrent = FoldModels.load(folders["joint"] / RECURRENT_NETWORKS, FittedModel.load)
    trees = FoldModels.load(folders["trees"] / "models", TreeModels.load)
    mixtures = _fit_mixtures(cohort, network.tasks, by_arm, "joint")
    EnsembleModel(network, trees, mixtures, recurrent).save(to / "model")
    predictions = _mix(cohort, by_arm, "joint", mixtures)
    write_arrays(to / PREDICTIONS, predictions)
    coverage = config["training"]["coverage"]
    Calibrator.fit(cohort, network.tasks, predictions, coverage).save(to / "calibration")
    if cohort.fold is not None:
        unseen = FoldCalibrators.fit(cohort, network.tasks, predictions, coverage)
        unseen.save(to / FOLD_CALIBRATION)
    # What the model is compared with gets the same lines, so that these are no part of its lead.
    for arm, file in (("single_task", SINGLE_TASK), ("trees", TREES_ALONE)):
        own_tasks = [task for task in tasks if task.name in by_arm[arm]]
        own_mixtures = _fit_mixtures(cohort, own_tasks, by_arm, arm)
        write_arrays(to / file, _mix(cohort, by_arm, arm, own_mixtures))
    shares = mixtures.of_all.shares
    of_both = [share for name, share in shares.items() if name in by_arm["trees"]]
    log(f"ensemble: the network's share is {_describe_shares(of_both)}")
    return {"share of the network": _describe_shares(of_both)}


def _fit_mixtures(
    cohort: Cohort, tasks: Sequence[TaskSpec], by_arm: Mapping[str, Predictions], arm: str
) -> FoldMixtures:
    return FoldMixtures.fit(cohort, tasks, by_arm[arm], by_arm["trees"])


def _mix(
    cohort: Cohort, by_arm: Mapping[str, Predictions], arm: str, mixtures: FoldMixtures
) -> dict[str, np.ndarray]:
    """The predictions of an arm's networks and the trees as one, each row by its own fold."""
    fold = np.zeros(len(cohort)) if cohort.fold is None else cohort.fold
    return mixtures.apply_unseen(by_arm[arm], by_arm["trees"], fold)


def _describe_shares(shares: Sequence[float]) -> str:
    """The median share and the range, of the tasks that have trees."""
    if not shares:
        return "1 (no task has trees)"
    return f"{median(shares):.2f} in the median ({min(shares):.2f} to {max(shares):.2f})"


ARMS: dict[str, Callable[..., dict[str, Any]]] = {
    "joint": joint,
    "single_task": single_task,
    "trees": trees,
    "ensemble": ensemble,
    "modalities": modalities,
}


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        started = time.monotonic()
        cohort = Cohort.load(config["cohort"])
        tasks = [TaskSpec.from_dict(record) for record in config["tasks"]]
        to = Path(config["to"])
        if config["arm"] != "joint" and os.environ.get("WORLD_SIZE", "1") != "1":
            raise InputError("torchrun is for the joint model: start this arm as one process")
        facts = ARMS[config["arm"]](cohort, tasks, config, to, log)
        if facts:
            write_json(to / FACTS, facts | {"seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
