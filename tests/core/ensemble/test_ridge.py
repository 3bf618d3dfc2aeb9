"""The linear path: ridge regression left out row by row, and logits from it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from synthetic import SMALL, SUPERVISED, make_cohort

from m3h_core import FitConfig, TaskSpec, fit
from m3h_core.ensemble.ridge import STRENGTHS, fit_linear_paths, fit_ridge
from m3h_core.losses import scalar_loss
from m3h_core.training.prepared import Prepared

REGRESSION = TaskSpec("r", "regression")
BINARY = TaskSpec("b", "binary")
CLASSES = TaskSpec("c", "multiclass", 3)


def _problem(m: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, features))
    return x, x[:, :2] @ np.array([[2.0, 0.0], [-1.0, 0.3]]) + rng.normal(size=(m, 2)) + 5


@pytest.mark.parametrize(
    "shape", [(40, 6), (15, 30), (20, 1500)], ids=["tall", "wide", "very wide"]
)
def test_equals_refits_without_each_row(shape):
    x, y = _problem(*shape)
    ridge = fit_ridge(x, y)
    for column in range(2):
        errors = []
        for strength in STRENGTHS:
            refits = [
                SklearnRidge(alpha=strength * len(x))
                .fit(np.delete(x, i, 0), np.delete(y[:, column], i))
                .predict(x[[i]])
                for i in range(len(x))
            ]
            errors.append(np.square(np.concatenate(refits) - y[:, column]).mean())
        best = int(np.argmin(errors))
        whole = SklearnRidge(alpha=STRENGTHS[best] * len(x)).fit(x, y[:, column])
        np.testing.assert_allclose(ridge(x)[:, column], whole.predict(x), atol=1e-6)
        np.testing.assert_allclose(
            np.square(ridge.left_out_mO - y).mean(0)[column], errors[best], rtol=0.02
        )


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(4, 40),
    features=st.integers(2, 60),
    share=st.floats(0.3, 1.0),
    seed=st.integers(0, 10_000),
)
def test_equals_scikit_learns_on_the_labelled_rows_of_each_task(rows, features, share, seed):
    """Why `fit_ridge` is there beside RidgeCV: docs/decisions/0028."""
    rng = np.random.default_rng(seed)
    x, y = _problem(rows, features, seed)
    labelled = rng.random((2, rows)) < share
    labelled[:, :3] = True
    paths = fit_linear_paths([REGRESSION, REGRESSION], x, y.T, labelled)
    for path, rows_labelled, target in zip(paths, labelled, y.T, strict=True):
        alphas = STRENGTHS * rows_labelled.sum()
        ridge_cv = RidgeCV(alphas, scoring="neg_mean_squared_error", store_cv_results=True)
        ridge_cv.fit(x[rows_labelled], target[rows_labelled])
        best = list(alphas).index(ridge_cv.alpha_)
        np.testing.assert_allclose(
            x @ path.weights_OF[0] + path.bias_O, ridge_cv.predict(x), 1e-8, 1e-8
        )
        np.testing.assert_allclose(
            path.train_On[0, rows_labelled] + path.bias_O, ridge_cv.cv_results_[:, best], 1e-8, 1e-8
        )


def test_rows_without_a_label_are_not_read():
    x, y = _problem(60, 5)
    labelled = np.arange(60) % 3 > 0
    path, again = (
        fit_linear_paths([REGRESSION], x, np.where(labelled, y[:, 0], junk)[None], labelled[None])[
            0
        ]
        for junk in (0.0, 1e6)
    )
    np.testing.assert_array_equal(path.weights_OF, again.weights_OF)
    np.testing.assert_allclose(path.train_On[0][~labelled], x[~labelled] @ path.weights_OF[0])
    assert not np.allclose(path.train_On[0][labelled], x[labelled] @ path.weights_OF[0])


def test_logits_are_calibrated_and_flat_where_there_is_nothing_to_learn():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 4))
    logit = 1.5 * x[:, 0] - 2
    y = np.stack([rng.random(4000) < 1 / (1 + np.exp(-logit)), rng.random(4000) < 0.2]).astype(
        float
    )
    learned, nothing = fit_linear_paths([BINARY, BINARY], x, y, np.ones_like(y, dtype=bool))
    assert learned.weights_OF[0, 0] == pytest.approx(1.5, abs=0.2)
    assert learned.bias_O[0] == pytest.approx(-2, abs=0.2)
    assert np.abs(x @ nothing.weights_OF[0]).max() < 0.2
    assert nothing.bias_O[0] == pytest.approx(np.log(0.2 / 0.8), abs=0.15)


def test_wide_noise_is_not_learned():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 3000))
    y = rng.normal(size=(100, 1))
    assert np.corrcoef(fit_ridge(x, y).left_out_mO[:, 0], y[:, 0])[0, 1] < 0.4


def test_a_softmax_starts_at_the_shares_of_the_classes():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 3))
    y = rng.choice(3, 3000, p=[0.9, 0.06, 0.04]).astype(float)
    path = fit_linear_paths([CLASSES], x, y[None], np.ones((1, 3000), dtype=bool))[0]
    shares = np.exp(path.bias_O) / np.exp(path.bias_O).sum()
    np.testing.assert_allclose(shares, np.bincount(y.astype(int)) / 3000, atol=0.01)


def test_a_class_is_never_impossible_and_too_few_labels_are_no_path():
    x, _ = _problem(30, 4)
    paths = fit_linear_paths(
        [CLASSES, BINARY, REGRESSION, TaskSpec("p", "clustering")],
        x,
        np.stack([np.arange(30) % 2, np.zeros(30), np.zeros(30), np.zeros(30)]).astype(float),
        np.stack(
            [
                np.ones(30, dtype=bool),
                np.ones(30, dtype=bool),
                np.arange(30) < 2,
                np.ones(30, dtype=bool),
            ]
        ),
    )
    assert paths[0].weights_OF.shape == (3, 4)
    assert np.isfinite(paths[0].bias_O).all()
    assert (paths[1].weights_OF == 0).all()
    assert paths[1].bias_O[0] == pytest.approx(-np.log(31))
    assert paths[2] is None
    assert paths[3] is None


def test_the_network_is_kept_only_as_far_as_validation_bears_it_out():
    cohort = make_cohort(300)
    harmful = FitConfig(**SMALL.to_dict() | {"learning_rate": 3.0, "epochs": 3, "borrowing": False})
    model = fit(cohort, SUPERVISED, harmful).model
    prepared = Prepared.of(cohort, SUPERVISED, harmful)
    data = prepared.data
    ridge = prepared.ridge
    linear_PB = ridge.weights[:-1] @ data.x_valid.T + ridge.bias[:-1, None]
    with torch.inference_mode():
        own_OB = model.own_outputs(data.x_valid)
    for i, task in enumerate(SUPERVISED[:3]):
        mask = data.valid_mask[i] > 0
        regression = torch.tensor(task.problem == "regression")
        losses = [
            scalar_loss(y[i], data.valid_targets[i], regression)[mask].mean()
            for y in (own_OB, linear_PB)
        ]
        assert losses[0] <= losses[1] + 1e-5
    assert torch.allclose(own_OB[1], linear_PB[1], atol=1e-4)
