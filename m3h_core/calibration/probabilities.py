"""The map of probabilities: Platt scaling for binary tasks, a temperature for multiclass ones; and
whether it pays.

Shapes: n rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3h_core.data.tasks import Problem
from m3h_core.grouped import mean_error

# How far a map is believed to lie from none: half-width of the log slope's and the offset's Cauchy
# prior.
_PRIOR = 0.3
# What float64 can tell from 1: probabilities nearer to 0 or 1 count as this near.
_NEAREST = 1e-15
_FOLDS = 5


def map_probabilities(
    problem: Problem, prediction: np.ndarray, slope: float, offset: float
) -> np.ndarray:
    """Probabilities [n] of a binary task, or [n, C], with slope and offset on their logit or
    log-probabilities.

    >>> map_probabilities("binary", np.array([0.1, 0.5]), 2.0, 0.0).round(3).tolist()
    [0.012, 0.5]
    """
    from scipy.special import expit, softmax

    scores = slope * _to_scores(problem, prediction) + offset
    return expit(scores) if problem == "binary" else softmax(scores, axis=1)


def fit_map(problem: Problem, target: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the highest likelihood under a prior that leaves probabilities as they
    are; ``target`` [n] are whole numbers.

    Fitted is the logarithm of the slope, so that it is positive. The prior on either, a Cauchy of
    0.3, weighs as much as some hundred labels near 0 and little far away: a free map fits the
    chance of few labels and is worse than none (docs/modelling.md has the figures), while
    predictions that are far off are mended.
    """
    from scipy.optimize import minimize

    scores = _to_scores(problem, prediction)

    def loss(at: np.ndarray) -> float:
        mapped = np.exp(at[0]) * scores + (at[1] if problem == "binary" else 0)
        return _compute_log_loss(problem, target, mapped).sum() + np.log1p((at / _PRIOR) ** 2).sum()

    # Without gradients: there are one or two parameters, and a rare class makes the loss flat.
    start = np.zeros(2 if problem == "binary" else 1)
    log_slope, *offset = minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}
    ).x
    return float(np.exp(log_slope)), float(offset[0]) if offset else 0.0


def pays(
    problem: Problem,
    target: np.ndarray,
    prediction: np.ndarray,
    subjects: Sequence | np.ndarray,
) -> bool:
    """Whether a map lowers the log loss of labels that it was not fitted on, by more than the
    standard error of that gain.

    Cross-validated by subject, five folds. The rule of one standard error (Breiman, Friedman,
    Olshen and Stone, 1984) keeps what is simpler, no map, where the other is not seen to be better:
    the gain of a map that is not needed is 0 but for chance, and the fewer labels the larger that.
    """
    whose = np.unique(np.asarray(subjects), return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(int(whose.max()) + 1)[whose] % _FOLDS
    scores = _to_scores(problem, prediction)
    gain = _compute_log_loss(problem, target, scores)
    for k in range(_FOLDS):
        is_out = fold == k
        slope, offset = fit_map(problem, target[~is_out], prediction[~is_out])
        mapped = slope * scores[is_out] + offset
        gain[is_out] -= _compute_log_loss(problem, target[is_out], mapped)
    return bool(gain.mean() > mean_error(gain, whose))


def _to_scores(problem: Problem, prediction: np.ndarray) -> np.ndarray:
    """Logits [n] of a binary task, log-probabilities [n, C] of a multiclass one; finite also at 0
    and 1.
    """
    from scipy.special import logit

    inner = np.clip(prediction, _NEAREST, 1 - _NEAREST)
    return logit(inner) if problem == "binary" else np.log(inner)


def _compute_log_loss(problem: Problem, target: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The log loss [n] of each row."""
    from scipy.special import log_softmax

    if problem == "binary":
        return np.logaddexp(0, np.where(target == 1, -1, 1) * scores)
    return -log_softmax(scores, axis=1)[np.arange(len(target)), target]
