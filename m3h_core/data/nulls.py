"""Inputs without clusters: what a clustering is held against.

Each column keeps its values, which change their rows. A value stays where its modality is there, so
that which modalities a sample has is as it was.

Shapes: n samples, F inputs, N draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Keeps the correlations of more columns than rows invertible.
_RIDGE = 1e-3


class NullInputs:
    """Draws inputs [n, F] that are like ``values_nF`` but for their clusters.

    ``present_nF`` says which values are there; the others are 0.

    >>> values = np.arange(12.0).reshape(6, 2)
    >>> null = NullInputs(values, np.ones((6, 2), bool))
    >>> drawn = next(null.permuted(np.random.default_rng(0), 1))
    >>> np.sort(drawn, axis=0).tolist() == values.tolist()
    True
    """

    def __init__(self, values_nF: np.ndarray, present_nF: np.ndarray) -> None:
        self._values_nF = values_nF
        # A column in one piece sorts faster.
        self._absent_Fn = np.ascontiguousarray(~present_nF.T)
        self._sorted_Fn = np.sort(np.where(self._absent_Fn, np.inf, values_nF.T), axis=1)

    def permuted(self, rng: np.random.Generator, n_draws: int) -> Iterator[np.ndarray]:
        """Each column in an order of its own: the columns are independent."""
        for _ in range(n_draws):
            yield self._reorder(rng.random(self._absent_Fn.shape, dtype=np.float32))

    def correlated(self, rng: np.random.Generator, n_draws: int) -> Iterator[np.ndarray]:
        """All columns in the order of one Gaussian (a Gaussian copula): what is correlated stays
        so, and a cloud that is merely long, skewed or heavy-tailed comes again.
        """
        mixing_FF = self._mixing()
        for _ in range(n_draws):
            noise_Fn = rng.standard_normal(self._absent_Fn.shape, dtype=np.float32)
            yield self._reorder(mixing_FF @ noise_Fn)

    def _mixing(self) -> np.ndarray:
        """What makes independent normal numbers correlated like the columns' normal scores."""
        from scipy.special import ndtri
        from scipy.stats import rankdata

        scores_Fn = np.zeros(self._absent_Fn.shape, dtype=np.float32)
        for scores_n, absent_n, values_n in zip(
            scores_Fn, self._absent_Fn, self._values_nF.T, strict=True
        ):
            ranks = rankdata(values_n[~absent_n])
            scores_n[~absent_n] = ndtri(ranks / (len(ranks) + 1))
        scores_Fn /= np.maximum(scores_Fn.std(1, keepdims=True), 1e-6)
        n_inputs, n = scores_Fn.shape
        covariance_FF = scores_Fn @ scores_Fn.T / n
        covariance_FF.flat[:: n_inputs + 1] += _RIDGE
        return np.linalg.cholesky(covariance_FF).astype(np.float32)

    def _reorder(self, order_Fn: np.ndarray) -> np.ndarray:
        """Each column's values, the smallest where ``order_Fn`` is smallest."""
        rows_Fn = np.argsort(np.where(self._absent_Fn, np.inf, order_Fn), axis=1)
        drawn_Fn = np.empty_like(self._sorted_Fn)
        np.put_along_axis(drawn_Fn, rows_Fn, self._sorted_Fn, axis=1)
        drawn_Fn[self._absent_Fn] = 0
        return drawn_Fn.T
