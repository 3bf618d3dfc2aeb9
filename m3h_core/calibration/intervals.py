"""Conformal intervals whose width follows the prediction.

Errors often grow with the prediction: that of a long stay is larger than that of a short one. With
one width for all, the short ones would be covered more often than stated and the long ones more
seldom. So an error counts in multiples of the *spread*, the mean absolute error of predictions
about as large, and so does the quantile that makes the interval (locally weighted split-conformal
inference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, 2018, section 5.2). Whatever the spread,
the coverage holds over all samples, because other labels than those that give the quantile give the
spread; the better it is, the more the coverage holds for large and small predictions too.

Shapes: n rows, k knots.
"""

from __future__ import annotations

import math

import numpy as np

Spread = tuple[tuple[float, float], ...]

# Of so many labels a mean is known to some 15%.
_FEWEST_IN_BIN = 30
_MOST_BINS = 10
# No bin's spread counts as less than this share of the mean over all: its labels may just have been
# easy, and nothing could be divided by 0.
_LEAST_SHARE = 0.1
# Of so many labels none is negative: the next is with a chance of at most 1 / 31.
_FEWEST_TO_BOUND = 30


def fit_spread(prediction: np.ndarray, error: np.ndarray) -> Spread:
    """Knots (prediction, mean absolute error) of bins with as many labels each, for predictions [n]
    and their absolute errors [n].

    Bins hold at least 30 labels, and there are at most ten; with too few labels for two bins there
    is no knot: the spread does not depend on the prediction.

    >>> prediction = np.repeat([1.0, 2.0, 10.0], 30)
    >>> fit_spread(prediction, prediction / 2)
    ((1.0, 0.5), (2.0, 1.0), (10.0, 5.0))
    >>> fit_spread(prediction[:59], prediction[:59] / 2)
    ()
    """
    n_bins = min(_MOST_BINS, len(prediction) // _FEWEST_IN_BIN)
    if n_bins < 2 or not error.any():
        return ()
    bins = np.array_split(np.argsort(prediction, kind="stable"), n_bins)
    centres = np.array([prediction[rows].mean() for rows in bins])
    spreads = np.maximum([error[rows].mean() for rows in bins], _LEAST_SHARE * error.mean())
    # A prediction that is made often may fill several bins.
    knots, knot_of_bin = np.unique(centres, return_inverse=True)
    spreads = np.bincount(knot_of_bin, weights=spreads) / np.bincount(knot_of_bin)
    return tuple(zip(knots.tolist(), spreads.tolist(), strict=True))


def compute_spread(spread: Spread, prediction: np.ndarray) -> np.ndarray:
    """The spread [n] at predictions [n]: linear between knots, beyond them that of the last; 1
    where there is no knot.

    >>> compute_spread(((1.0, 0.5), (2.0, 1.0)), np.array([-9.0, 1.5, 99.0])).tolist()
    [0.5, 0.75, 1.0]
    """
    if not spread:
        return np.ones(len(prediction))
    return np.interp(prediction, *np.transpose(spread))


def find_lowest(labels: np.ndarray) -> float | None:
    """0 where none of the labels [n] is negative; None where one is, or there are fewer than 30.

    An interval that is cut there loses at most one in n + 1 of the coverage, and nothing where the
    target can't be negative, as a duration can't.

    >>> find_lowest(np.arange(30.0)), find_lowest(np.arange(30.0) - 1), find_lowest(np.arange(29.0))
    (0.0, None, None)
    """
    return 0.0 if len(labels) >= _FEWEST_TO_BOUND and labels.min() >= 0 else None


def compute_conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of n scores; infinite where there is none.

    A new score is as likely to fall into each of the n + 1 gaps between them: so many of these hold
    the coverage.

    >>> [compute_conformal_quantile(np.arange(1.0, 1.0 + n), 0.9) for n in (9, 8)]
    [9.0, inf]
    """
    k = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 1e-9: rounding must not cost a rank
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else math.inf
