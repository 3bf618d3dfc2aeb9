"""The rules for differences of T tasks, from their estimates [T] and their replicates [R, T].

- A task is *refuted* where its upper bound lies below -margin, and *shown* where its lower bound
  lies above it; between the two it is *open*: too few patients are judged to tell.
- The mean of all tasks is *refuted* where its upper bound lies below 0 and its estimate below
  -mean_margin, and *shown* where its lower bound lies above -margin.

Lower bounds hold for all tasks at once (max-t). Upper bounds are as far off as it takes for an
equally good candidate to have one below -margin, in whichever task, with a chance of at most
``level``: max-t as well, but counted from equality and not from -margin, where hardly any candidate
stands and the bounds would hide most losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3h_pipeline.registry.gate.verdict import Comparison, State


def compare(
    tasks: Sequence[tuple[str, str, float, float]],
    replicates: np.ndarray,
    margin: float,
    level: float,
) -> list[Comparison]:
    """The rule for each of T comparisons (task, metric, value, other), with replicates [R, T] of
    their differences.

    >>> spread = [0.01, 0.2, 0.001]
    >>> draws = np.random.default_rng(0).normal([-0.1, 0.0, 0.0], spread, size=(2000, 3))
    >>> tasks = [("a", "AUROC", 0.7, 0.8), ("b", "AUROC", 0.8, 0.8), ("c", "R2", 0.5, 0.5)]
    >>> [compared.state for compared in compare(tasks, draws, 0.02, 0.05)]
    ['refuted', 'open', 'shown']
    """
    from m3h_core.metrics import simultaneous_bounds

    if not tasks:
        return []
    values = np.array([value - other for _, _, value, other in tasks])
    lows, _ = simultaneous_bounds(values, replicates, level)
    highs = compute_upper_bounds(values, replicates, margin, level)
    comparisons = []
    for about, low, high in zip(tasks, lows.tolist(), highs.tolist(), strict=True):
        comparisons.append(Comparison(*about, low, high, decide_state(low, high, margin)))
    return comparisons


def decide_state(low: float, high: float, margin: float) -> State:
    """What bounds of a difference say of a margin."""
    if high < -margin:
        return "refuted"
    return "shown" if low >= -margin else "open"


def compute_upper_bounds(
    values: np.ndarray, replicates: np.ndarray, margin: float, level: float
) -> np.ndarray:
    """Upper bounds [T], one of which lies below -margin in an equally good candidate with a chance
    of ``level``.

    None is nearer than the task's own one-sided bound. With a margin of 0 they are those of max-t.

    >>> draws = np.random.default_rng(0).normal(size=(2000, 8))
    >>> for margin in (0.0, 0.5, 2.0):
    ...     print(compute_upper_bounds(np.zeros(8), draws, margin, 0.05)[0].round(1))
    2.5
    2.0
    1.6
    """
    from scipy.stats import norm

    spread = np.nanstd(replicates, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = (values - replicates - margin) / spread
    # A value that never varies is known; one that is not defined in a resample is left out of it.
    reach = np.where(np.isfinite(reach), reach, -np.inf)
    critical = np.quantile(reach.max(axis=1), 1 - level, method="higher")
    return values + max(float(norm.ppf(1 - level)), float(critical)) * spread


def compute_mean_bounds(
    values: np.ndarray, replicates: np.ndarray, level: float
) -> tuple[float, float]:
    """One-sided bounds of the mean of T differences, with replicates [R, T].

    >>> draws = np.random.default_rng(0).normal(0.1, 0.1, size=(2000, 25))
    >>> [round(bound, 2) for bound in compute_mean_bounds(np.full(25, 0.1), draws, 0.05)]
    [0.07, 0.13]
    """
    from m3h_core.metrics import simultaneous_bounds

    means = np.nanmean(replicates, axis=1, keepdims=True)
    low, high = simultaneous_bounds(np.array([np.mean(values)]), means, level)
    return float(low[0]), float(high[0])
