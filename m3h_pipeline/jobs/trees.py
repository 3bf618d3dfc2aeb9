"""The boosted-tree arm: LightGBM, one model a task, on the same inputs, labels and splits as the
networks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from joblib import Parallel, cpu_count, delayed

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.files import fingerprint
from m3h_core.workers import bound_to_this_process

_OBJECTIVES = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}


def fit_trees(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    *,
    rounds: int,
    seed: int,
    to: Path,
    resume: Path,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> dict[str, np.ndarray]:
    """Predictions {task: [N] or [N, classes]} of one LightGBM model a task, early-stopped on the
    validation split.

    Finished models are kept in the folder ``resume``: the same call after a kill trains the others
    only. A clustering task has no labels, so trees have nothing to learn of it: it is left out. A
    task without both kinds of label in training is predicted by its training mean. ``workers``
    bounds the processes that train side by side; 0: one a core.
    """
    x_NF = tree_inputs(cohort)
    for folder in (to, resume):
        folder.mkdir(parents=True, exist_ok=True)
    labelled = [task for task in tasks if task.problem != "clustering"]
    predictions: dict[str, np.ndarray] = {}
    # A process a core, not LightGBM's own threads, which gain nothing on cohorts of this size; nor
    # threads of ours: training in several threads at once has crashed inside LightGBM.
    n_jobs = min(workers or cpu_count(), max(1, len(labelled)))
    fitted = Parallel(n_jobs=n_jobs, return_as="generator", **bound_to_this_process())(
        delayed(_fit_one)(
            x_NF, *_rows_and_labels(cohort, task), task, rounds, seed, kept, to / f"{task.name}.txt"
        )
        for task, kept in zip(
            labelled, _list_model_files(cohort, x_NF, labelled, rounds, seed, resume), strict=True
        )
    )
    for task, prediction in zip(labelled, fitted, strict=True):
        predictions[task.name] = prediction
        if on_progress:
            on_progress(len(predictions), len(labelled))
    return predictions


def tree_inputs(cohort: Cohort) -> np.ndarray:
    """All modalities side by side [N, F]; a missing modality is NaN, which the trees treat as
    missing.
    """
    return np.hstack(
        [
            np.where(cohort.present[name][:, None], values, np.nan)
            for name, values in cohort.embeddings.items()
        ]
    ).astype(np.float32)


def _rows_and_labels(cohort: Cohort, task: TaskSpec) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """A task's labelled rows by split, and its labels [N]."""
    labelled = cohort.labelled[task.name]
    rows = {split: np.flatnonzero(labelled & (cohort.split == split)) for split in (TRAIN, VALID)}
    return rows, np.asarray(cohort.labels[task.name])


def _list_model_files(
    cohort: Cohort,
    x_NF: np.ndarray,
    tasks: Sequence[TaskSpec],
    rounds: int,
    seed: int,
    folder: Path,
) -> list[Path]:
    """Where the model of each task is kept: by all that decides it."""
    shared = fingerprint(x_NF, cohort.split, rounds, seed)
    keys = [
        fingerprint(shared, task.to_dict(), cohort.labels[task.name], cohort.labelled[task.name])
        for task in tasks
    ]
    return [folder / f"{task.name}-{key}.txt" for task, key in zip(tasks, keys, strict=True)]


def _fit_one(
    x_NF: np.ndarray,
    rows: dict[int, np.ndarray],
    labels: np.ndarray,
    task: TaskSpec,
    rounds: int,
    seed: int,
    kept: Path,
    to: Path,
) -> np.ndarray:
    train_labels = labels[rows[TRAIN]]
    if len(np.unique(train_labels)) < 2:
        return _predict_constant(task, train_labels, len(x_NF))
    if not kept.exists():
        model = _train(x_NF, rows, labels, task, rounds, seed)
        partial = kept.with_suffix(".partial")
        model.save_model(partial)
        partial.replace(kept)
    shutil.copy2(kept, to)
    # Read back, also what was trained just now: the same file gives the same bits.
    return np.asarray(lgb.Booster(model_file=to).predict(x_NF, num_threads=1), dtype=np.float64)


def _train(
    x_NF: np.ndarray,
    rows: dict[int, np.ndarray],
    labels: np.ndarray,
    task: TaskSpec,
    rounds: int,
    seed: int,
) -> lgb.Booster:
    parameters: dict[str, Any] = {
        "objective": _OBJECTIVES[task.problem],
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_child_samples": 10,
        "feature_fraction": 0.3,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 63,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    if task.problem == "multiclass":
        parameters["num_class"] = task.n_classes
    data = lgb.Dataset(x_NF[rows[TRAIN]], labels[rows[TRAIN]], free_raw_data=False)
    stops = len(rows[VALID]) > 0
    return lgb.train(
        parameters,
        data,
        num_boost_round=rounds,
        valid_sets=[data.create_valid(x_NF[rows[VALID]], labels[rows[VALID]])] if stops else None,
        callbacks=[lgb.early_stopping(20, verbose=False)] if stops else None,
    )


def _predict_constant(task: TaskSpec, train_labels: np.ndarray, n: int) -> np.ndarray:
    if task.problem == "multiclass":
        classes = task.n_classes or 1
        counts = np.bincount(train_labels.astype(int), minlength=classes) + 1.0
        return np.tile(counts / counts.sum(), (n, 1))
    return np.full(n, train_labels.mean() if len(train_labels) else 0.0)
