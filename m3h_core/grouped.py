"""Errors of shares and means over rows that are grouped by subject: a patient's stays tell less
than those of as many patients.

How much less is seen in the rows themselves. An estimate's variance over groups, divided by what it
would be if each row stood alone, is the design effect; n rows count as n / design effect (Kish;
Korn and Graubard for the exact interval). It is taken to be at least 1, and at most what it is
where all rows of a group are alike. Where no group has two rows, all of this gives the textbook's
intervals.

Shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

_TWO_SIDED = (0.025, 0.975)


def effective_count(happened: np.ndarray, subjects: Sequence | np.ndarray) -> float:
    """How many rows that stand alone tell as much of the share of ``happened`` [n] as these do.

    >>> effective_count(np.array([1, 0, 1, 0]), ["a", "b", "c", "d"])
    4.0
    >>> effective_count(np.array([1, 1, 0, 0]), ["a", "a", "b", "b"])  # a pair says as much as one
    2.0
    """
    happened = np.asarray(happened, dtype=np.float64)
    n = len(happened)
    whose = np.unique(np.asarray(subjects), return_inverse=True)[1]
    sizes = np.bincount(whose)
    if n < 2 or len(sizes) == n:
        return float(n)
    alike = float(np.square(sizes).sum()) / n
    share = happened.mean()
    alone = n / (n - 1) * n * share * (1 - share)
    if len(sizes) < 2 or alone <= 0:
        return n / alike
    together = np.bincount(whose, weights=happened - share)
    design = len(sizes) / (len(sizes) - 1) * float(np.square(together).sum()) / alone
    return n / min(max(design, 1.0), alike)


def design_effect(categories: np.ndarray, subjects: Sequence | np.ndarray) -> float:
    """By how much shares of ``categories`` [n] vary more than those of rows that stand alone.

    Rao and Scott's first-order correction: the mean of the categories' design effects, the more
    frequent a category the less it weighs. A chi-squared statistic of the counts is divided by it.

    >>> design_effect(np.array([0, 1, 2, 0]), ["a", "b", "c", "d"])
    1.0
    >>> design_effect(np.array([0, 0, 1, 1, 2, 2]), ["a", "a", "b", "b", "c", "c"])
    2.0
    """
    kinds, of_row = np.unique(np.asarray(categories), return_inverse=True)
    if len(kinds) < 2:
        return 1.0
    weights = 1 - np.bincount(of_row) / len(of_row)
    counts = [effective_count(of_row == kind, subjects) for kind in range(len(kinds))]
    return float(np.average(len(of_row) / np.array(counts), weights=weights))


def share_interval(
    happened: np.ndarray,
    subjects: Sequence | np.ndarray,
    method: Literal["exact", "wilson"] = "exact",
) -> tuple[float, float]:
    """The 95% interval of a share: Clopper and Pearson's, or Wilson's. From 0 to 1 where there is
    no row.

    >>> [round(end, 3) for end in share_interval(np.zeros(10), range(10), "wilson")]
    [0.0, 0.278]
    >>> [round(end, 3) for end in share_interval(np.zeros(20), np.arange(20) // 2, "wilson")]
    [0.0, 0.278]
    """
    from scipy.stats import beta, norm

    happened = np.asarray(happened, dtype=np.float64)
    if not len(happened):
        return 0.0, 1.0
    n = effective_count(happened, subjects)
    share = float(happened.mean())
    if method == "wilson":
        z = float(norm.ppf(_TWO_SIDED[1]))
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        return max(0.0, float(centre - reach)), min(1.0, float(centre + reach))
    part = share * n
    low = float(beta.ppf(_TWO_SIDED[0], part, n - part + 1)) if share > 0 else 0.0
    high = float(beta.ppf(_TWO_SIDED[1], part + 1, n - part)) if share < 1 else 1.0
    return low, high


def mean_error(values: np.ndarray, subjects: Sequence | np.ndarray) -> float:
    """The standard error of a mean over groups; NaN where there are fewer than two.

    >>> round(mean_error(np.array([1.0, 2.0, 3.0, 4.0]), range(4)), 3)
    0.645
    """
    values = np.asarray(values, dtype=np.float64)
    whose = np.unique(np.asarray(subjects), return_inverse=True)[1]
    count = int(whose.max()) + 1 if len(whose) else 0
    if count < 2:
        return float("nan")
    together = np.bincount(whose, weights=values - float(values.mean()))
    return float(np.sqrt(count / (count - 1) * np.square(together).sum()) / len(values))


def mean_interval(values: np.ndarray, subjects: Sequence | np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean, by Student's t over groups; NaN where there are fewer than two.

    >>> [round(end, 2) for end in mean_interval(np.array([1.0, 2.0, 3.0, 4.0]), range(4))]
    [0.45, 4.55]
    """
    from scipy.stats import t

    count = len(np.unique(np.asarray(subjects)))
    if count < 2:
        return float("nan"), float("nan")
    mean = float(np.mean(np.asarray(values, dtype=np.float64)))
    reach = float(t.ppf(_TWO_SIDED[1], count - 1) * mean_error(values, subjects))
    return mean - reach, mean + reach
