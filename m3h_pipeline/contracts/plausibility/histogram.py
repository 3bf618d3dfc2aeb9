"""The values of every code as a fine histogram: made in one pass, small enough to be judged code by
code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

# Bins are so wide in the natural logarithm of the absolute value: two thousandths, finer than any
# laboratory.
WIDTH = 0.002
# Beyond every logarithm of a double, so that bins of positive values are positive numbers.
_OFFSET = 400_000


@dataclass(frozen=True)
class Histogram:
    """The values of one code, ascending: ``values`` of the bins, ``rows`` in each, and whether a
    bin is one number.
    """

    code: str
    values: np.ndarray
    rows: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return int(self.rows.sum())

    def where(self, keep: np.ndarray) -> Histogram:
        """The bins for which ``keep`` is true."""
        return Histogram(self.code, self.values[keep], self.rows[keep], self.exact[keep])

    def quantile(self, share: float) -> float:
        """The value below which this share of the rows lies."""
        return float(self.quantiles(np.array([share]))[0])

    def quantiles(self, shares: np.ndarray) -> np.ndarray:
        """Several quantiles at once."""
        cumulated = np.cumsum(self.rows)
        at = np.searchsorted(cumulated, shares * cumulated[-1], side="left")
        return self.values[np.minimum(at, len(self.values) - 1)]


def build_histograms(rows: pl.LazyFrame) -> Iterator[Histogram]:
    """Histograms of a table with the columns code and value, in the order of the codes; no value is
    left out.
    """
    value = pl.col("value")
    number = (value.abs().log() / WIDTH).floor().cast(pl.Int32) + _OFFSET
    bins = (
        rows.filter(value.is_finite(), pl.col("code").is_not_null())
        .with_columns(
            pl.when(value == 0).then(0).otherwise(number * value.sign().cast(pl.Int32)).alias("bin")
        )
        .group_by("code", "bin")
        .agg(pl.len().alias("rows"), value.min().alias("low"), value.max().alias("high"))
        .collect(engine="streaming")
        .sort("code", "bin")
    )
    for (code,), part in bins.group_by("code", maintain_order=True):
        low = part["low"].to_numpy()
        high = part["high"].to_numpy()
        yield Histogram(str(code), low + (high - low) / 2, part["rows"].to_numpy(), low == high)


def compute_binomial_tail(successes: int, trials: int, chance: float) -> float:
    """The chance of at least so many successes.

    >>> round(compute_binomial_tail(10, 10, 0.5), 6), compute_binomial_tail(0, 10, 0.5)
    (0.000977, 1.0)
    """
    from scipy.special import betainc

    if successes <= 0:
        return 1.0
    if not 0 < chance < 1:
        return float(chance >= 1)
    return float(betainc(successes, trials - successes + 1, chance))


def compute_log_ratio(high: float, low: float) -> float:
    """The logarithm of a ratio of positive numbers."""
    return math.log(high) - math.log(low)
