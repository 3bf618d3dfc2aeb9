"""The error of contrasts that were measured fold by fold, and whether they differ from 0.

Shapes: n contrasts, K folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# With at most so many cells' worth of its family a cell's own spread over folds is taken: folds are
# few.
_PRIOR_CELLS = 10.0
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Variances:
    """What is uncertain of contrasts in each fold: ``patients`` [n, K], who is judged; ``seeds``
    [n, K], the seed of training, with its ``freedom`` [n]: degrees of freedom, 0 where nothing was
    trained twice. ``orders`` [n]: of the mean over folds, where orders of tasks were drawn.
    """

    patients: np.ndarray
    seeds: np.ndarray
    freedom: np.ndarray
    orders: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """Contrasts [n]: value, standard error, 95% interval, two-sided p value of being 0 (NaN where
    nothing tells how much training itself varies; the error is then that of the patients alone).
    """

    value: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def estimate_error(value_nK: np.ndarray, variances: Variances, families: Sequence[int]) -> Measured:
    """The mean over folds of each contrast [n, K], NaN in a fold where it was not measured, with
    its error.

    To patients and seeds comes what folds differ by beyond these: they were trained on other rows.
    Folds are few, so a contrast's own spread is moderated by the mean over its family (the cells of
    one task), as in a moderated t test.
    """
    folds = np.isfinite(value_nK).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, patients, seeds = (
            np.where(folds > 0, np.nansum(part, axis=1) / divisor, np.nan)
            for part, divisor in (
                (value_nK, folds),
                (variances.patients, folds**2),
                (variances.seeds, folds**2),
            )
        )
    rows, freedom_rows = _estimate_training_rows(value_nK, variances, np.asarray(families))
    orders = np.zeros(len(value)) if variances.orders is None else variances.orders
    is_tested = (variances.freedom > 0) | np.isfinite(freedom_rows)
    total = patients + seeds + rows + orders
    with np.errstate(invalid="ignore", divide="ignore"):
        # Satterthwaite: the degrees of freedom of a sum of variances. Patients are many.
        parts = np.where(seeds > 0, seeds**2 / variances.freedom, 0)
        parts = parts + np.where(rows > 0, rows**2 / freedom_rows, 0)
        freedom = np.where(parts > 0, total**2 / parts, np.inf)
        error = np.sqrt(total)
        reach = stats.t.ppf(0.5 + _CONFIDENCE / 2, freedom) * error
        p = np.where(error > 0, 2 * stats.t.sf(np.abs(value) / error, freedom), 1.0)
    p = np.where(np.isfinite(value) & is_tested, p, np.nan)
    return Measured(value, error, value - reach, value + reach, p)


def combine_freedom(variances: np.ndarray, freedom: np.ndarray) -> float:
    """The degrees of freedom of a sum of independent variances (Satterthwaite); 0 where one of them
    was not estimated.

    >>> combine_freedom(np.array([1.0, 1.0]), np.array([4, 4]))
    8.0
    """
    if not (freedom > 0).all():
        return 0.0
    total = variances.sum()
    if not total:
        return float(freedom.sum())
    return float(total**2 / (variances**2 / freedom).sum())


def find_survivors(q: np.ndarray, fdr: float) -> np.ndarray:
    """Where adjusted p values lie within the false discovery rate; not where there is none."""
    return np.nan_to_num(q, nan=1.0) <= fdr


def adjust_p_values(p: np.ndarray) -> np.ndarray:
    """P values adjusted for the false discovery rate (Benjamini and Hochberg), NaN where there is
    none.

    >>> adjust_p_values(np.array([0.01, np.nan, 0.04])).round(3)
    array([0.02,  nan, 0.04])
    """
    adjusted = np.full(p.shape, np.nan)
    is_defined = np.isfinite(p)
    if is_defined.any():
        adjusted[is_defined] = stats.false_discovery_control(p[is_defined], method="bh")
    return adjusted


def _estimate_training_rows(
    value_nK: np.ndarray, variances: Variances, families: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The variance [n] of each mean that comes from other rows to train on, and its degrees of
    freedom [n], NaN where nothing tells them.
    """
    n_folds = value_nK.shape[1]
    rows = np.zeros(len(value_nK))
    freedom = np.full(len(value_nK), np.nan)
    if n_folds == 1:
        return rows, freedom
    folds = np.isfinite(value_nK).sum(1)
    within = variances.patients.mean(1) + variances.seeds.mean(1)
    own = value_nK.var(1, ddof=1) - within
    for family in np.unique(families):
        is_member = families == family
        whole = np.flatnonzero(is_member & (folds == n_folds))
        if not len(whole):
            continue
        # A family's cells share their single-task models: two of them say about as much as one
        # apart.
        prior = min(_PRIOR_CELLS, len(whole) / 2)
        pooled = own[whole].mean()
        rows[whole] = np.maximum((prior * pooled + own[whole]) / (prior + 1), 0) / n_folds
        freedom[whole] = (prior + 1) * (n_folds - 1)
        # What was measured in some folds only has its family's spread alone.
        partial = np.flatnonzero(is_member & (folds < n_folds) & (folds > 0))
        rows[partial] = max(pooled, 0) / folds[partial]
        freedom[partial] = prior * (n_folds - 1)
    return rows, freedom
