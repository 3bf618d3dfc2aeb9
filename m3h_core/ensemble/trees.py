"""Boosted trees by LightGBM: two models a task, on the same inputs, labels and splits as networks.

One chooses each split's best threshold, the other the best of thresholds drawn at random (extremely
randomised trees, Geurts et al. 2006): they err unlike, and their mean is the prediction.

LightGBM is an extra (``pip install 'm3h[trees]'``): nothing else of m3h_core needs it, and it is
imported when trees are fitted or predict.

Shapes: N samples, F inputs of all modalities side by side, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from m3h_core.data.cohort import TRAIN, VALID, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.files import fingerprint, read_saved_json, write_json
from m3h_core.workers import bound_to_this_process

if TYPE_CHECKING:
    import lightgbm

_FORMAT = 2
_ABOUT = "trees.json"
# What each of a task's models has of its own.
_KINDS: tuple[dict[str, Any], ...] = ({}, {"extra_trees": True})
_OBJECTIVES = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
# What all models have: bins follow from it and from the rows, so that models can share them.
_SHARED: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 10,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
# What this process binned last, by `_Rows.key`: its next model mostly learns from the same rows.
_BINNED: dict[str, tuple[lightgbm.Dataset, list[lightgbm.Dataset]]] = {}


@dataclass(frozen=True)
class TreeModels:
    """Fitted trees; they travel as LightGBM's own text and JSON.

    ``modalities`` {name: width} are the inputs in their order, ``texts`` {task: a text for each
    model}, and ``constants`` {task: [1] or [C]} what stands for a task that has no trees.
    """

    is_rowwise: ClassVar[bool] = True
    modalities: Mapping[str, int]
    tasks: tuple[TaskSpec, ...]
    texts: Mapping[str, Sequence[str]]
    constants: Mapping[str, Sequence[float]]

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Predictions of every row of a cohort, float64 {task: [N], or [N, C] for multiclass}.

        Probabilities for binary and multiclass, the task's unit for regression. A modality that the
        cohort lacks counts as missing. Raises ValueError for one of another width.
        """
        x_NF = stack_inputs(cohort, self.modalities)
        predictions = {}
        for task in self.tasks:
            if task.name in self.texts:
                boosters = self._boosters[task.name]
                values = [np.asarray(one.predict(x_NF, num_threads=1)) for one in boosters]
                predictions[task.name] = np.mean(values, axis=0)
            else:
                constant = np.asarray(self.constants[task.name])
                shape = (len(x_NF), len(constant)) if len(constant) > 1 else len(x_NF)
                predictions[task.name] = np.broadcast_to(constant, shape).copy()
        return predictions

    @cached_property
    def _boosters(self) -> dict[str, list[lightgbm.Booster]]:
        return {name: list(map(_read_booster, texts)) for name, texts in self.texts.items()}

    def save(self, folder: str | Path) -> None:
        """Write ``<task>-<model>.txt`` for each task that has trees, then ``trees.json``, into an
        existing or new folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, texts in self.texts.items():
            for at, text in enumerate(texts):
                (folder / f"{name}-{at}.txt").write_text(text)
        about = {
            "format": _FORMAT,
            "modalities": list(self.modalities.items()),
            "tasks": [task.to_dict() for task in self.tasks],
            "models": len(_KINDS),
            "constants": {name: list(values) for name, values in self.constants.items()},
        }
        write_json(folder / _ABOUT, about)

    @classmethod
    def load(cls, folder: str | Path) -> TreeModels:
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder)
        about = read_saved_json(folder / _ABOUT, "trees", [_FORMAT])
        tasks = tuple(TaskSpec.from_dict(record) for record in about["tasks"])
        constants = about["constants"]
        texts = {
            task.name: _read_texts(folder, task.name, about["models"])
            for task in tasks
            if task.name not in constants
        }
        return cls(dict(about["modalities"]), tasks, texts, constants)


def fit_trees(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    *,
    rounds: int = 200,
    seed: int = 0,
    resume: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> TreeModels:
    """Train two LightGBM models a task, of at most ``rounds`` trees each, early-stopped on the
    validation split.

    Finished models are kept in the folder ``resume``: the same call after a kill trains the others
    only. A clustering task has no labels, so trees have nothing to learn of it: it is left out. A
    task without two kinds of label in training is predicted by its training mean. ``workers``
    bounds the processes that train side by side; 0: one a core. Raises ImportError where LightGBM
    is not installed.
    """
    from joblib import Parallel, cpu_count, delayed

    _import_lightgbm()
    modalities = {name: values.shape[1] for name, values in cohort.embeddings.items()}
    x_NF = stack_inputs(cohort, modalities)
    labelled = [task for task in tasks if task.problem != "clustering"]
    texts: dict[str, list[str]] = {}
    constants: dict[str, list[float]] = {}
    inputs = fingerprint(x_NF, cohort.split, rounds, seed)
    rows = {task.name: _find_rows(cohort, task, inputs) for task in labelled}
    # Those of the same rows follow one another, so that a process bins their inputs once.
    ordered = sorted(labelled, key=lambda task: rows[task.name].key)
    work = [(task, kind) for task in ordered for kind in range(len(_KINDS))]
    # A process a core, not LightGBM's own threads, which gain nothing on cohorts of this size; nor
    # threads of ours: training in several threads at once has crashed inside LightGBM.
    n_jobs = min(workers or cpu_count(), max(1, len(work)))
    files = _list_kept_files(cohort, inputs, work, resume)
    fitted = Parallel(n_jobs=n_jobs, return_as="generator", **bound_to_this_process())(
        delayed(_fit_one)(
            x_NF,
            rows[task.name],
            np.asarray(cohort.labels[task.name]),
            task,
            kind,
            rounds,
            seed,
            file,
        )
        for (task, kind), file in zip(work, files, strict=True)
    )
    for done, ((task, _), model) in enumerate(zip(work, fitted, strict=True), start=1):
        if isinstance(model, str):
            texts.setdefault(task.name, []).append(model)
        else:
            constants[task.name] = model
        if on_progress:
            on_progress(done, len(work))
    _BINNED.clear()
    return TreeModels(modalities, tuple(labelled), texts, constants)


def _read_texts(folder: Path, task: str, models: int) -> list[str]:
    return [(folder / f"{task}-{at}.txt").read_text() for at in range(models)]


def _read_booster(text: str) -> lightgbm.Booster:
    return _import_lightgbm().Booster(model_str=text)


def _import_lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError("boosted trees need LightGBM: pip install 'm3h[trees]'") from error
    return lightgbm


def stack_inputs(cohort: Cohort, modalities: Mapping[str, int]) -> np.ndarray:
    """All modalities side by side [N, F]; a missing modality is NaN, which the trees treat as
    missing.
    """
    parts = []
    for name, width in modalities.items():
        values = cohort.embeddings.get(name)
        if values is None:
            parts.append(np.full((len(cohort), width), np.nan))
            continue
        if values.shape[1] != width:
            raise ValueError(f"{name}: the trees read {width} columns, not {values.shape[1]}")
        parts.append(np.where(cohort.present[name][:, None], values, np.nan))
    return np.hstack(parts).astype(np.float32)


@dataclass(frozen=True)
class _Rows:
    """A task's labelled rows: where ``key`` is the same, so are they, the inputs and the seed."""

    train: np.ndarray
    valid: np.ndarray
    key: str


def _find_rows(cohort: Cohort, task: TaskSpec, inputs: str) -> _Rows:
    labelled = cohort.labelled[task.name]
    train = np.flatnonzero(labelled & (cohort.split == TRAIN))
    valid = np.flatnonzero(labelled & (cohort.split == VALID))
    return _Rows(train, valid, fingerprint(inputs, train, valid))


def _list_kept_files(
    cohort: Cohort,
    inputs: str,
    work: Sequence[tuple[TaskSpec, int]],
    folder: str | Path | None,
) -> list[Path | None]:
    """Where each model is kept, by all that decides it; None where none is.

    ``inputs``: what decides all of them; ``work``: a task and a kind each.
    """
    if folder is None:
        return [None] * len(work)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for task, kind in work:
        labels = cohort.labels[task.name]
        key = fingerprint(inputs, task.to_dict(), _KINDS[kind], labels, cohort.labelled[task.name])
        files.append(folder / f"{task.name}-{key}.txt")
    return files


def _fit_one(
    x_NF: np.ndarray,
    rows: _Rows,
    labels: np.ndarray,
    task: TaskSpec,
    kind: int,
    rounds: int,
    seed: int,
    kept: Path | None,
) -> str | list[float]:
    """The text of one of a task's models, or the constant that stands for one."""
    train_labels = labels[rows.train]
    if len(np.unique(train_labels)) < 2:
        return _compute_constant(task, train_labels)
    if kept is not None and kept.exists():
        return kept.read_text()
    text = _train(x_NF, rows, labels, task, kind, rounds, seed).model_to_string()
    if kept is not None:
        partial = kept.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(kept)
    return text


def _train(
    x_NF: np.ndarray,
    rows: _Rows,
    labels: np.ndarray,
    task: TaskSpec,
    kind: int,
    rounds: int,
    seed: int,
) -> lightgbm.Booster:
    lgb = _import_lightgbm()
    shared = {**_SHARED, "seed": seed}
    train_data, valid_sets = _bin_inputs(x_NF, rows, shared)
    train_data.set_label(labels[rows.train])
    for valid_data in valid_sets:
        valid_data.set_label(labels[rows.valid])
    parameters = {**shared, **_KINDS[kind], "objective": _OBJECTIVES[task.problem]}
    if task.problem == "multiclass":
        parameters["num_class"] = task.n_classes
    return lgb.train(
        parameters,
        train_data,
        num_boost_round=rounds,
        valid_sets=valid_sets,
        callbacks=[lgb.early_stopping(20, verbose=False)] if valid_sets else None,
        # Else it is written as text and read again first.
        keep_training_booster=True,
    )


def _bin_inputs(
    x_NF: np.ndarray, rows: _Rows, parameters: dict[str, Any]
) -> tuple[lightgbm.Dataset, list[lightgbm.Dataset]]:
    """The inputs of the training rows and, where there are any, of the validation rows; without
    labels.
    """
    if rows.key not in _BINNED:
        _BINNED.clear()
        # Without the raw inputs: LightGBM then refuses parameters that would need other bins.
        train_data = _import_lightgbm().Dataset(x_NF[rows.train], params=parameters).construct()
        valid_sets = []
        if len(rows.valid):
            valid_data = train_data.create_valid(x_NF[rows.valid], params=parameters)
            valid_sets.append(valid_data.construct())
        _BINNED[rows.key] = (train_data, valid_sets)
    return _BINNED[rows.key]


def _compute_constant(task: TaskSpec, train_labels: np.ndarray) -> list[float]:
    if task.problem == "multiclass":
        counts = np.bincount(train_labels.astype(int), minlength=task.n_classes or 1) + 1.0
        return (counts / counts.sum()).tolist()
    return [float(train_labels.mean()) if len(train_labels) else 0.0]
