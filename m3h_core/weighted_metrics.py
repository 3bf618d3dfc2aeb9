"""AUROC and R2 under many sets of weights at once: a weight is how often a resample drew the row.

Shapes: n rows that are scored, R sets of weights.
"""

from __future__ import annotations

import numpy as np

# So many weights are sorted at once: they bound the memory.
_CELLS_AT_ONCE = 4_000_000


def weighted_auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC [R] of n rows under R sets of weights [R, n]; ties count half; NaN where one kind has
    no weight.

    >>> weighted_auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), np.ones((1, 4)))
    array([0.75])
    """
    positive = np.asarray(positive) == 1
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    is_positive = positive[order]
    # Positions of the first and one past the last row of each positive's group of equal scores.
    positive_scores = ranked[is_positive]
    start = np.searchsorted(ranked, positive_scores, "left")
    end = np.searchsorted(ranked, positive_scores, "right")
    result = np.empty(len(weights))
    step = max(1, _CELLS_AT_ONCE // max(1, len(order)))
    for at in range(0, len(weights), step):
        w = weights[at : at + step][:, order].astype(np.float64)
        below = np.zeros((len(w), len(order) + 1))
        np.cumsum(np.where(is_positive, 0.0, w), axis=1, out=below[:, 1:])
        w_positive = w[:, is_positive]
        won = (w_positive * (below[:, start] + below[:, end])).sum(1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            result[at : at + step] = won / (w_positive.sum(1) * below[:, -1])
    return result


def stratified_auroc(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray, fold: np.ndarray | None
) -> np.ndarray:
    """AUROC [R] as :func:`weighted_auroc`, over the pairs of rows whose ``fold`` [n] is the same;
    over all pairs without it.

    Scores of different models can't be ranked together: each starts from the base rate of its own
    training rows, which is low where that of its fold is high, so that even models that know
    nothing would be below one half.

    >>> positive = np.array([1, 0, 0, 1, 1, 0])
    >>> score = np.array([0.4, 0.4, 0.4, 0.3, 0.3, 0.3])
    >>> fold = np.array([0, 0, 0, 1, 1, 1])
    >>> stratified_auroc(positive, score, np.ones((1, 6)), fold)
    array([0.5])
    >>> weighted_auroc(positive, score, np.ones((1, 6))).round(2)
    array([0.33])
    """
    if fold is None:
        return weighted_auroc(positive, score, weights)
    is_positive = np.asarray(positive) == 1
    won = np.zeros(len(weights))
    pairs = np.zeros(len(weights))
    for one in np.unique(fold):
        rows = np.flatnonzero(fold == one)
        some = weights[:, rows]
        of_positives = some[:, is_positive[rows]].sum(1, dtype=np.float64)
        n_pairs = of_positives * (some.sum(1, dtype=np.float64) - of_positives)
        auroc = weighted_auroc(is_positive[rows], np.asarray(score)[rows], some)
        won += np.where(n_pairs > 0, auroc * n_pairs, 0.0)
        pairs += n_pairs
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_r2(target: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R2 [R] of n rows under R sets of weights [R, n]; NaN where the targets do not vary.

    >>> weighted_r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]), np.ones((1, 3)))
    array([0.5])
    """
    centred = np.asarray(target, dtype=np.float64) - np.mean(target)
    error = np.square(np.asarray(target, dtype=np.float64) - prediction)
    columns = np.stack([np.ones_like(centred), centred, centred**2, error], axis=1)
    total, first, second, wrong = (weights.astype(np.float64) @ columns).T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = second - first**2 / total
        return np.where(spread > 1e-12 * np.maximum(second, 1e-300), 1 - wrong / spread, np.nan)
