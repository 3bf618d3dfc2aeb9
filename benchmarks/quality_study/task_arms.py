"""Arms that fit each task by itself: linear models and boosted trees.

A linear model reads embedded inputs, and so do the pipeline's trees; tuned trees read raw ones with
their gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.data.folds import seed_of_fold
from m3h_core.ensemble.trees import fit_trees, stack_inputs
from m3h_core.metrics import primary_metric
from m3h_pipeline.config import TrainingConfig
from m3h_pipeline.state.steps import code_version
from quality_study.arms import Arm, Predictions, average_folds, find_folds, without_fold

# (depth, leaves, learning rate, rows in a child, share of columns, L2): from small, smooth trees to
# large, held-back ones. XGBoost reads the depth, LightGBM the leaves.
SEARCH = (
    (2, 4, 0.05, 10, 0.5, 1.0),
    (3, 7, 0.05, 20, 0.3, 5.0),
    (3, 7, 0.03, 5, 0.7, 1.0),
    (4, 12, 0.03, 10, 0.5, 5.0),
    (4, 12, 0.05, 40, 0.3, 10.0),
    (5, 20, 0.03, 20, 0.3, 5.0),
    (6, 31, 0.03, 10, 0.2, 20.0),
    (6, 31, 0.02, 40, 0.7, 1.0),
)
# The setting of the pipeline's first kind of trees.
_USUAL = (4, 15, 0.05, 10, 0.3, 5.0)
ROUNDS = 600
STOP_AFTER = 30
BINS = 63
ROW_SHARE = 0.8
# The quadratic penalty of the linear models, a training row.
STRENGTHS = (0.001, 0.004, 0.016, 0.06, 0.25, 1.0)


def linear(name: str = "linear") -> Arm:
    """Logistic or ridge regression on the embedded inputs; the strength is chosen on the validation
    split.
    """

    def one(rows: TaskRows, strength: float, seed: int) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression, Ridge

        penalty = strength * len(rows.y_train)
        if rows.task.problem == "regression":
            return Ridge(alpha=penalty).fit(rows.x_train, rows.y_train).predict(rows.x)
        model = LogisticRegression(C=1 / penalty, max_iter=500).fit(rows.x_train, rows.y_train)
        if rows.task.problem == "binary":
            return model.decision_function(rows.x)
        probabilities = np.zeros((len(rows.x), rows.task.n_outputs))
        probabilities[:, model.classes_.astype(int)] = model.predict_proba(rows.x)
        return probabilities

    settings = {"kind": "linear", "strengths": list(STRENGTHS)}
    fitted = by_task_best(one, STRENGTHS, dense_inputs)
    return Arm(name, settings, fitted, alone=True, by_task=True)


def trees(name: str = "trees") -> Arm:
    """LightGBM once a task as the pipeline trains it: embedded inputs, one setting, no search."""
    rounds = TrainingConfig().tree_rounds

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        return fit_trees(cohort, tasks, rounds=rounds, seed=seed, workers=1).predict(cohort)

    settings = {
        "kind": "trees",
        "rounds": rounds,
        "code": code_version("m3h_core.ensemble.trees"),
    }
    return Arm(name, settings, fitted, alone=True, by_task=True)


def lightgbm(name: str = "lightgbm", averaged: int = 1) -> Arm:
    """LightGBM once a task on raw inputs, its settings chosen on the validation split."""
    return _trees(name, _fit_lightgbm, averaged, "lightgbm")


def plain_lightgbm(name: str = "lightgbm-13") -> Arm:
    """One LightGBM model a task in the pipeline's setting, on thirteen statistics of a signal: what
    this project had before, and what many would do.
    """
    fitted = by_task_best(_fit_lightgbm, [_USUAL], stack)
    settings = {"kind": "lightgbm, plain", "choice": list(_USUAL)}
    return Arm(name, settings, fitted, plain=True, alone=True, by_task=True)


def tuned_trees(name: str = "tuned-trees", n_folds: int = 0) -> Arm:
    """The same on the inputs of the networks and of the pipeline's trees.

    Cross-fitted as these are, with ``n_folds``: settings are chosen in the first fold, for all.
    """
    raw = lightgbm(name)
    fitted = by_task_best(_fit_lightgbm, SEARCH, stack)
    if n_folds > 1:
        fitted = _tune_in_first_fold(n_folds)
    settings = {**raw.settings, "kind": "lightgbm, embedded", "folds": n_folds}
    return replace(raw, settings=settings, fit=fitted, raw=False)


def _tune_in_first_fold(
    n_folds: int,
) -> Callable[[Cohort, Sequence[TaskSpec], int], Predictions]:
    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        x = stack(cohort)
        fold = find_folds(cohort, n_folds)
        predictions = {}
        for task in tasks:
            first = without_fold(cohort, fold, 0)
            of_task = TaskRows.of(first, task, x)
            if of_task.is_constant:
                predictions[task.name] = of_task.predict_constant()
                continue
            choice, of_first = choose_best(_fit_lightgbm, SEARCH, first, of_task, seed)
            parts = [{task.name: of_first}]
            for at in range(1, n_folds):
                rows = TaskRows.of(without_fold(cohort, fold, at), task, x)
                parts.append({task.name: _fit_lightgbm(rows, choice, seed_of_fold(seed, at))})
            predictions |= average_folds(fold, parts)
        return predictions

    return fitted


def stack(cohort: Cohort) -> np.ndarray:
    """All modalities side by side [N, F], NaN where one is missing."""
    return stack_inputs(cohort, cohort.widths)


def _fit_lightgbm(rows: TaskRows, choice: tuple, seed: int) -> np.ndarray:
    import lightgbm as lgb

    _, leaves, rate, child, columns, l2 = choice
    parameters: dict[str, Any] = {
        "objective": rows.task.problem,
        "num_leaves": leaves,
        "learning_rate": rate,
        "min_child_samples": child,
        "feature_fraction": columns,
        "bagging_fraction": ROW_SHARE,
        "bagging_freq": 1,
        "lambda_l2": l2,
        "max_bin": BINS,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    if rows.task.problem == "multiclass":
        parameters["num_class"] = rows.task.n_classes
    data = lgb.Dataset(rows.x_train, rows.y_train, params=parameters)
    valid = data.create_valid(rows.x_valid, rows.y_valid)
    stop = lgb.early_stopping(STOP_AFTER, verbose=False)
    model = lgb.train(parameters, data, ROUNDS, valid_sets=[valid], callbacks=[stop])
    return np.asarray(model.predict(rows.x))


def xgboost(name: str = "xgboost", averaged: int = 1) -> Arm:
    """XGBoost once a task, its settings chosen on the validation split."""

    def one(rows: TaskRows, choice: tuple, seed: int) -> np.ndarray:
        xgb = import_module("xgboost")  # an extra that few installations have
        depth, _, rate, child, columns, l2 = choice
        binary = rows.task.problem == "binary"
        parameters = {
            "objective": "binary:logistic" if binary else "reg:squarederror",
            "max_depth": depth,
            "eta": rate,
            # Counted in curvature, which is 1 a row of a regression and the labels' variance a row
            # of a binary task.
            "min_child_weight": child * (rows.y_train.var() if binary else 1.0),
            "colsample_bytree": columns,
            "subsample": ROW_SHARE,
            "lambda": l2,
            "max_bin": BINS,
            "tree_method": "hist",
            "nthread": 1,
            "seed": seed,
        }
        train, valid = (
            xgb.DMatrix(x, y, nthread=1)
            for x, y in ((rows.x_train, rows.y_train), (rows.x_valid, rows.y_valid))
        )
        model = xgb.train(
            parameters,
            train,
            ROUNDS,
            evals=[(valid, "valid")],
            early_stopping_rounds=STOP_AFTER,
            verbose_eval=False,
        )
        return model.predict(
            xgb.DMatrix(rows.x, nthread=1), iteration_range=(0, model.best_iteration + 1)
        )

    return _trees(name, one, averaged, "xgboost")


def _trees(
    name: str, one: Callable[[TaskRows, tuple, int], np.ndarray], averaged: int, kind: str
) -> Arm:
    settings = {
        "kind": kind,
        "search": [list(choice) for choice in SEARCH],
        "averaged": averaged,
        "fixed": [ROUNDS, STOP_AFTER, BINS, ROW_SHARE],
    }
    fitted = by_task_best(one, SEARCH, raw_inputs, averaged)
    return Arm(name, settings, fitted, raw=True, alone=True, by_task=True)


def raw_inputs(cohort: Cohort) -> np.ndarray:
    """The columns as they were recorded [N, F], NaN where missing."""
    return cohort.embeddings["tabular"]


def dense_inputs(cohort: Cohort) -> np.ndarray:
    """All modalities side by side [N, F]: 0 where one is missing, and a flag for that."""
    parts = []
    for name, values in cohort.embeddings.items():
        is_present = cohort.present[name][:, None]
        parts += [np.where(is_present, values, 0), ~is_present]
    return np.hstack(parts)


@dataclass(frozen=True)
class TaskRows:
    """What a model of one task reads: inputs [N, F] of all rows, and the labelled training and
    validation rows.
    """

    task: TaskSpec
    x: np.ndarray
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray

    @classmethod
    def of(cls, cohort: Cohort, task: TaskSpec, x: np.ndarray) -> TaskRows:
        """Take them from a cohort whose inputs are ``x``."""
        y = np.asarray(cohort.labels[task.name])
        train, valid = (
            cohort.labelled[task.name] & (cohort.split == split) for split in (TRAIN, VALID)
        )
        return cls(task, x, x[train], y[train], x[valid], y[valid])

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to learn."""
        return len(np.unique(self.y_train)) < 2

    def predict_constant(self) -> np.ndarray:
        """The training rows' mean [N] or, of several classes, one number for all [N, C]."""
        n = len(self.x)
        shape = (n, self.task.n_outputs) if self.task.problem == "multiclass" else n
        return np.full(shape, self.y_train.mean() if len(self.y_train) else 0.0)


def by_task_best(
    one: Callable[[TaskRows, Any, int], np.ndarray],
    choices: Sequence[Any],
    inputs: Callable[[Cohort], np.ndarray],
    averaged: int = 1,
) -> Callable[[Cohort, Sequence[TaskSpec], int], Predictions]:
    """Fit each task by each choice, keep that with the best primary metric on the validation split.

    The winner is fitted with further seeds and averaged, where that is asked for.
    """

    def best(cohort: Cohort, task: TaskSpec, x: np.ndarray, seed: int) -> np.ndarray:
        rows = TaskRows.of(cohort, task, x)
        if rows.is_constant:
            return rows.predict_constant()
        choice, prediction = choose_best(one, choices, cohort, rows, seed)
        # Seeds of their own, far from those of the splits.
        more = [one(rows, choice, 1000 * (i + 1) + seed) for i in range(averaged - 1)]
        return np.mean([prediction, *more], axis=0)

    def fitted(cohort: Cohort, tasks: Sequence[TaskSpec], seed: int) -> Predictions:
        x = inputs(cohort)
        return {task.name: best(cohort, task, x, seed) for task in tasks}

    return fitted


def choose_best(
    one: Callable[[TaskRows, Any, int], np.ndarray],
    choices: Sequence[Any],
    cohort: Cohort,
    rows: TaskRows,
    seed: int,
) -> tuple[Any, np.ndarray]:
    """The choice with the best primary metric on the validation split, and its predictions of all
    rows.
    """
    tried = [one(rows, choice, seed) for choice in choices]
    worth = [primary_metric(cohort, rows.task, prediction, VALID) for prediction in tried]
    at = int(np.argmax(np.nan_to_num(worth, nan=-np.inf)))
    return choices[at], tried[at]
