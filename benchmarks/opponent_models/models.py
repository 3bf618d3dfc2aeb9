"""The opponents: each learns one task from labelled rows and predicts the test rows.

An opponent is fitted once, on all that our own models learn from in their three folds, and is given
the same labels: those of training and validation rows. What it does with the validation rows:

- ``catboost``, ``tabm``, ``realmlp``: early stopping, or the best epoch, as they were made for.
- ``autogluon``: it holds out rows by itself, in bags of folds, so it learns from all rows.
- ``stack``: as training rows too; scikit-learn's stacking holds out folds by itself.
- ``tabpfn``, ``tabicl``: as training rows too, for they read labelled rows and stop nothing.

None is cross-fitted: where a method bags, it bags by itself. Libraries are imported when they fit,
so that one that is missing stops no other.

Shapes: N rows, F inputs, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opponent_models.networks import realmlp, tabm
from opponent_models.rows import TaskRows, by_class, predict_test

# Trees --------------------------------------------------------------------------------------------


def catboost(rows: TaskRows) -> np.ndarray:
    """CatBoost, stopped early on the validation rows; as the shipped trees do, a split looks at a
    third of the inputs in 64 bins, else a thousand inputs take all the time.
    """
    from catboost import CatBoostClassifier, CatBoostRegressor

    class Deadline:
        def after_iteration(self, info: Any) -> bool:
            return rows.seconds_left() > 0.03 * rows.seconds

    kind = CatBoostRegressor if rows.is_regression else CatBoostClassifier
    model = kind(
        iterations=1000,
        rsm=0.3,
        border_count=64,
        od_type="Iter",
        od_wait=50,
        use_best_model=True,
        thread_count=1,
        random_seed=rows.seed,
        allow_writing_files=False,
        verbose=False,
    )
    valid = (rows.x_valid, rows.y_valid)
    model.fit(rows.x_train, rows.y_train, eval_set=valid, callbacks=[Deadline()])
    return predict_test(model, rows)


# Stacks -------------------------------------------------------------------------------------------


def autogluon(rows: TaskRows) -> np.ndarray:
    """AutoGluon: boosted trees of three makers and a network, bagged in folds, a second layer
    stacked on the first, and a weighted ensemble.

    Trees look at a part of the inputs, and its forests and linear models are left out: with its
    defaults one kind of model would take all the time.
    """
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    metrics = {"regression": "r2", "binary": "roc_auc", "multiclass": "roc_auc_ovr_macro"}
    frame = pd.DataFrame(rows.x).add_prefix("x")
    some = {"feature_fraction": 0.3, "max_bin": 63}
    models: dict[str, Any] = {
        "GBM": [{"extra_trees": True, "ag_args": {"name_suffix": "XT"}, **some}, some],
        "XGB": {"colsample_bytree": 0.3, "max_bin": 63},
        "NN_TORCH": {},
        "CAT": {"rsm": 0.3, "border_count": 32},
    }
    for priority, kind in enumerate(models):
        given = models[kind] if isinstance(models[kind], list) else [models[kind]]
        models[kind] = [
            {**one, "ag_args": {**one.get("ag_args", {}), "priority": 100 - priority}}
            for one in given
        ]
    with tempfile.TemporaryDirectory() as folder:
        predictor = TabularPredictor(
            label="label",
            problem_type=rows.problem,
            eval_metric=metrics[rows.problem],
            path=folder,
            verbosity=0,
        )
        predictor.fit(
            frame.assign(label=rows.y),
            hyperparameters=models,
            time_limit=0.9 * rows.seconds_left(),
            num_bag_folds=4,
            num_bag_sets=1,
            num_stack_levels=1,
            dynamic_stacking=False,
            num_cpus=1,
            num_gpus=0,
            ag_args_fit={"num_cpus": 1},
            ag_args_ensemble={"fold_fitting_strategy": "sequential_local"},
        )
        test = pd.DataFrame(rows.x_test).add_prefix("x")
        if rows.is_regression:
            return predictor.predict(test).to_numpy()
        probabilities = predictor.predict_proba(test)
        return by_class(rows, list(probabilities.columns), probabilities.to_numpy())


def stack(rows: TaskRows) -> np.ndarray:
    """scikit-learn's stacking of LightGBM, extremely randomised trees, a linear model and a small
    network, by a linear model on predictions of three folds.
    """
    from lightgbm import LGBMClassifier, LGBMRegressor
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        StackingClassifier,
        StackingRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    boosting: dict[str, Any] = {
        "n_estimators": 200,
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_child_samples": 10,
        "colsample_bytree": 0.3,
        "subsample": 0.8,
        "subsample_freq": 1,
        "reg_lambda": 5.0,
        "max_bin": 63,
        "n_jobs": 1,
        "random_state": rows.seed,
        "verbosity": -1,
    }
    forest: dict[str, Any] = {
        "n_estimators": 200,
        "min_samples_leaf": 3,
        "max_features": 0.05,
        "random_state": rows.seed,
    }
    network: dict[str, Any] = {
        "hidden_layer_sizes": (64,),
        "alpha": 1.0,
        "early_stopping": len(rows.y) > 100,
        "random_state": rows.seed,
    }
    if rows.is_regression:
        model = StackingRegressor(
            [
                ("boosting", LGBMRegressor(**boosting)),
                ("forest", ExtraTreesRegressor(**forest)),
                ("linear", make_pipeline(StandardScaler(), Ridge(alpha=len(rows.y)))),
                ("network", make_pipeline(StandardScaler(), MLPRegressor(**network))),
            ],
            RidgeCV(),
            cv=3,
        )
    else:
        logistic = LogisticRegression(C=1e-3, max_iter=200)
        model = StackingClassifier(
            [
                ("boosting", LGBMClassifier(**boosting)),
                ("forest", ExtraTreesClassifier(**forest)),
                ("linear", make_pipeline(StandardScaler(), logistic)),
                ("network", make_pipeline(StandardScaler(), MLPClassifier(**network))),
            ],
            LogisticRegression(),
            cv=3,
        )
    return predict_test(model.fit(rows.x, rows.y), rows)


# Pretrained ---------------------------------------------------------------------------------------


def tabpfn(rows: TaskRows) -> np.ndarray:
    """TabPFN from a file of weights; nothing is downloaded."""
    from tabpfn import TabPFNClassifier, TabPFNRegressor

    kind = TabPFNRegressor if rows.is_regression else TabPFNClassifier
    model = kind(
        model_path=rows.checkpoints[int(rows.is_regression)],
        device="cpu",
        ignore_pretraining_limits=True,
        random_state=rows.seed,
    )
    return predict_test(model.fit(rows.x, rows.y), rows)


def tabicl(rows: TaskRows) -> np.ndarray:
    """TabICL from a file of weights; nothing is downloaded."""
    from tabicl import TabICLClassifier, TabICLRegressor

    kind = TabICLRegressor if rows.is_regression else TabICLClassifier
    model = kind(
        model_path=rows.checkpoints[int(rows.is_regression)],
        allow_auto_download=False,
        device="cpu",
        n_jobs=1,
        random_state=rows.seed,
    )
    return predict_test(model.fit(rows.x, rows.y), rows)


@dataclass(frozen=True)
class Opponent:
    """``fit`` predicts the test rows; ``needs``: modules that it imports, once before all its fits;
    ``pretrained``: whether it needs files of weights.
    """

    fit: Callable[[TaskRows], np.ndarray]
    needs: tuple[str, ...]
    pretrained: bool = False


OPPONENTS: Mapping[str, Opponent] = {
    "catboost": Opponent(catboost, ("catboost",)),
    "stack": Opponent(stack, ("lightgbm", "sklearn.ensemble")),
    "autogluon": Opponent(autogluon, ("pandas", "autogluon.tabular")),
    "realmlp": Opponent(realmlp, ("pytabkit",)),
    "tabm": Opponent(tabm, ("torch", "sklearn.preprocessing", "tabm")),
    "tabpfn": Opponent(tabpfn, ("tabpfn",), pretrained=True),
    "tabicl": Opponent(tabicl, ("tabicl",), pretrained=True),
}
