"""The linear path in closed form: for each task a ridge regression, its strength chosen by leaving
each row out.

It is fitted before the network. Every other of the network's members, from the first, learns what
it leaves over, the rest learn all, and in the end each task mixes its network with it as far as
validation bears out. With few labels the ridge is nearly all that can be learned, with many it is a
start; how strong it has to be, a task's own labels say. Training rows are given the prediction of
the map that was fitted without them: the network must not learn to undo what the ridge has
overfitted.

Rows are left out one by one, not patient by patient: where patients have several stays in the
training split, the strength is chosen a little too weak, for joint and single-task models alike.

The cost is one decomposition of the smaller side, cubic in it, for each set of rows that are
labelled alike.

Shapes: n training rows, m labelled ones, F inputs, O outputs (a binary or regression task has one,
a multiclass task one for each class), k singular values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3h_core.data.tasks import TaskSpec

# Penalty for each labelled row, in units of the inputs' variance.
STRENGTHS = 10.0 ** np.arange(-2, 3.5, 0.5)
# A row of leverage 1 has no left-out prediction; nearer to 1 than this is rounding.
_LEAST_FREEDOM = 1e-9
# Change of a logit for a standard deviation of a score: more is separation, not evidence.
_STEEPEST = 10.0


@dataclass(frozen=True)
class Ridge:
    """A linear map ``x @ weights_FO + bias_O``; ``left_out_mO`` is what it says of each row when
    fitted without it.
    """

    weights_FO: np.ndarray
    bias_O: np.ndarray
    left_out_mO: np.ndarray

    def __call__(self, x_F: np.ndarray) -> np.ndarray:
        """Outputs [..., O] of inputs [..., F]."""
        return x_F @ self.weights_FO + self.bias_O


@dataclass(frozen=True)
class LinearPath:
    """A task's linear path, in logits or standardised units: weights [O, F], bias [O], and what
    training rows see.

    ``train_On`` is, without the bias, the left-out prediction of rows that are labelled and the
    prediction of others.
    """

    weights_OF: np.ndarray
    bias_O: np.ndarray
    train_On: np.ndarray


def fit_ridge(x_mF: np.ndarray, y_mO: np.ndarray) -> Ridge:
    """Ridge regressions of several outputs on the same rows, each of the strength with the least
    left-out error.

    Leaving a row out costs nothing: its residual is the fitted one divided by 1 minus the row's
    leverage.

    >>> x = np.linspace(-1, 1, 9)[:, None]
    >>> ridge = fit_ridge(x, 2 * x + 1)
    >>> ridge(np.array([[0.5]])).round(1), bool(abs(ridge.left_out_mO - 2 * x - 1).max() < 0.1)
    (array([[2.]]), True)
    """
    centre_F = x_mF.mean(0)
    centre_O = y_mO.mean(0)
    x = x_mF - centre_F
    y = y_mO - centre_O
    values_k, left_mk, right_Fk = _decompose(x)
    projected_kO = left_mk.T @ y
    squared_mk = left_mk**2
    best_O = np.full(y.shape[1], np.inf)
    weights_FO = np.zeros((x.shape[1], y.shape[1]))
    left_out_mO = np.zeros_like(y)
    for strength in STRENGTHS:
        kept_k = values_k**2 / (values_k**2 + strength * len(x))
        freedom_m = np.maximum(1 - squared_mk @ kept_k - 1 / len(x), _LEAST_FREEDOM)
        residual_mO = (y - left_mk @ (kept_k[:, None] * projected_kO)) / freedom_m[:, None]
        error_O = np.square(residual_mO).mean(0)
        better = error_O < best_O
        best_O = np.where(better, error_O, best_O)
        weights_FO[:, better] = right_Fk @ ((kept_k / values_k)[:, None] * projected_kO[:, better])
        left_out_mO[:, better] = (y - residual_mO)[:, better]
    return Ridge(weights_FO, centre_O - centre_F @ weights_FO, left_out_mO + centre_O)


def fit_linear_paths(
    tasks: Sequence[TaskSpec], x_nF: np.ndarray, targets_Tn: np.ndarray, labelled_Tn: np.ndarray
) -> list[LinearPath | None]:
    """The linear path of each task; None for clustering and where there are too few labels to leave
    one out.

    Binary and multiclass targets are regressed as 0 and 1; a logistic (softmax) regression on the
    left-out predictions turns these into logits, flat where they do not rise with the labels.
    """
    paths: list[LinearPath | None] = [None] * len(tasks)
    groups: dict[bytes, list[int]] = {}
    for i, task in enumerate(tasks):
        if task.problem != "clustering" and labelled_Tn[i].sum() >= 3:
            groups.setdefault(labelled_Tn[i].tobytes(), []).append(i)
    for (
        members
    ) in groups.values():  # tasks with the same labelled rows share the decomposition of the inputs
        rows = labelled_Tn[members[0]]
        columns = [_columns(tasks[i], targets_Tn[i, rows]) for i in members]
        ridge = fit_ridge(x_nF[rows], np.hstack(columns))
        end = 0
        for i, y_mO in zip(members, columns, strict=True):
            part = slice(end, end := end + y_mO.shape[1])
            own = Ridge(ridge.weights_FO[:, part], ridge.bias_O[part], ridge.left_out_mO[:, part])
            paths[i] = _build_path(tasks[i], own, x_nF, y_mO, rows)
    return paths


def _columns(task: TaskSpec, target_m: np.ndarray) -> np.ndarray:
    """What is regressed [m, O]: a column for each output."""
    if task.problem == "multiclass":
        return (target_m[:, None] == np.arange(task.n_outputs)).astype(np.float64)
    return target_m[:, None].astype(np.float64)


def _build_path(
    task: TaskSpec, ridge: Ridge, x_nF: np.ndarray, y_mO: np.ndarray, rows: np.ndarray
) -> LinearPath:
    slope = 1.0
    level_O = np.zeros(y_mO.shape[1])
    if task.problem == "binary":
        slope, level_O = _logit_scale(ridge.left_out_mO[:, 0], y_mO[:, 0])
    elif task.problem == "multiclass":
        slope, level_O = _softmax_scale(ridge.left_out_mO, y_mO)
    train_nO = x_nF @ ridge.weights_FO
    train_nO[rows] = ridge.left_out_mO - ridge.bias_O
    return LinearPath(
        np.ascontiguousarray((ridge.weights_FO * slope).T),
        ridge.bias_O * slope + level_O,
        np.ascontiguousarray((train_nO * slope).T),
    )


def _logit_scale(score_m: np.ndarray, y_m: np.ndarray) -> tuple[float, np.ndarray]:
    """Slope and level of the logit of ``y`` in a score: logistic regression; slope 0 where it would
    be negative.

    A ridge that learns nothing predicts the mean of the *other* rows, which falls where the label
    rises.
    """
    from sklearn.linear_model import LogisticRegression

    spread = float(score_m.std())
    positives = float(y_m.sum())
    # A row of each class is added, so that a class that was not seen is rare and not impossible.
    flat = float(np.log((positives + 1) / (len(y_m) - positives + 1)))
    if not 0 < positives < len(y_m) or spread < 1e-12:
        return 0.0, np.array([flat])
    fitted = LogisticRegression(C=1.0).fit(((score_m - score_m.mean()) / spread)[:, None], y_m)
    slope = float(fitted.coef_[0, 0]) / spread
    if slope <= 0:
        return 0.0, np.array([flat])
    return slope, fitted.intercept_ - slope * score_m.mean()


def _softmax_scale(score_mC: np.ndarray, y_mC: np.ndarray) -> tuple[float, np.ndarray]:
    """One slope and a level for each class: the logits of a softmax that starts at the classes'
    shares.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    mean_C = score_mC.mean(0)
    spread = float(score_mC.std(0).max())
    counts_C = y_mC.sum(0) + 1
    flat_C = np.log(counts_C / counts_C.sum())

    def loss(slope: float) -> float:
        z_mC = flat_C + slope * (score_mC - mean_C)
        return float((logsumexp(z_mC, axis=1) - (z_mC * y_mC).sum(1)).mean())

    if spread < 1e-12:
        return 0.0, flat_C
    slope = float(minimize_scalar(loss, bounds=(0.0, _STEEPEST / spread), method="bounded").x)
    if loss(slope) >= loss(0.0):
        slope = 0.0
    return slope, flat_C - slope * mean_C


def _decompose(x_mF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular values and vectors [k], [m, k], [F, k], from the products of the smaller side."""
    wide = x_mF.shape[0] < x_mF.shape[1]
    squared, vectors = np.linalg.eigh(x_mF @ x_mF.T if wide else x_mF.T @ x_mF)
    kept = squared > 1e-10 * max(float(squared[-1]), 1e-300)
    values = np.sqrt(squared[kept])
    vectors = vectors[:, kept]
    others = (x_mF.T if wide else x_mF) @ (vectors / values)
    return (values, vectors, others) if wide else (values, others, vectors)
