"""Single values that can't be right: numbers that stand for "missing", and values far beyond all
others.
"""

from __future__ import annotations

import numpy as np

from m3h_pipeline.contracts.plausibility.findings import Finding, format_rows
from m3h_pipeline.contracts.plausibility.histogram import Histogram
from m3h_pipeline.wording import MIN_GROUP_SIZE

# What programs write where there is nothing.
SENTINELS = frozenset(
    sign * number
    for number in (
        9.0,
        99.0,
        999.0,
        9999.0,
        99999.0,
        999999.0,
        9999999.0,
        99.9,
        999.9,
        9999.9,
        88.0,
        888.0,
        8888.0,
    )
    for sign in (1.0, -1.0)
) | {-1.0, -2.0, -999.25, -99.99, -32768.0, 32767.0, 2147483647.0, -2147483648.0}
# Of what lies near a sentinel, it must be nearly all: a value among others like it is a value.
_NEARLY_ALL = 0.8
_NEAR = 1.25
# Beyond so many standard deviations, taken from the middle of the values on each side, a value is
# none. On the scale of logarithms, where a tail like that of liver enzymes falls off as a straight
# line, one value in 50,000 is.
_DEVIATIONS = 10.0
# From this share of a code's values on they are worth a look.
_SHARE = 1e-4
_MIN_VALUES = 100
# With so many negative values, zero is a value like others.
_SIGNED = 0.05


def find_sentinels(histogram: Histogram, table: str) -> list[Finding]:
    """Numbers such as -999 that are repeated exactly, far from all other values."""
    is_sentinel = _is_sentinel(histogram)
    frequent = is_sentinel & (histogram.rows >= MIN_GROUP_SIZE)
    rest = histogram.where(~is_sentinel)
    if not frequent.any() or len(rest) < MIN_GROUP_SIZE:
        return []
    low, high = rest.quantiles(np.array([0.005, 0.995]))
    detached = [
        (float(value), int(rows))
        for value, rows in zip(histogram.values[frequent], histogram.rows[frequent], strict=True)
        if _is_detached(float(value), int(rows), rest, float(low), float(high))
    ]
    if not detached:
        return []
    rows = sum(count for _, count in detached)
    numbers = " and ".join(f"{value:.15g}" for value, _ in detached)
    words = (
        f"{numbers} stands for {format_rows(rows, len(histogram))}, far from all others, as a "
        "stand-in for a missing value does"
    )
    return [Finding(table, "sentinels", histogram.code, False, rows, len(histogram), words)]


def _is_sentinel(histogram: Histogram) -> np.ndarray:
    """Of each bin, whether it is one number that programs write where there is nothing."""
    return histogram.exact & np.isin(histogram.values, np.array(sorted(SENTINELS)))


def _is_detached(value: float, rows: int, rest: Histogram, low: float, high: float) -> bool:
    """Whether a repeated number lies beyond the rest, with hardly another value around it."""
    near = sorted((value / _NEAR, value * _NEAR))
    others = int(rest.rows[(rest.values >= near[0]) & (rest.values <= near[1])].sum())
    if others > (1 - _NEARLY_ALL) * (rows + others):
        return False
    span = high - low
    if value < 0 <= low:
        # Of what is never negative, a negative number needs no distance.
        return int(rest.rows[rest.values < 0].sum()) <= 0.1 * rows
    return value > high + span or value < low - span


def find_outliers(histogram: Histogram, table: str) -> list[Finding]:
    """Values far beyond all others, on a scale on which a long tail is no surprise."""
    judged = histogram.where(~_is_sentinel(histogram))
    if not is_judged(judged):
        return []
    bounds = compute_robust_bounds(judged)
    if bounds is None:
        return []
    low, high = bounds
    beyond = (judged.values < low) | (judged.values > high)
    rows = int(judged.rows[beyond].sum())
    if not rows or rows < _SHARE * len(judged):
        return []
    sides = []
    if (judged.values < low).any():
        sides.append(f"below {low:.3g}")
    if (judged.values > high).any():
        sides.append(f"above {high:.3g}")
    words = (
        f"{format_rows(rows, len(histogram))} lie {' or '.join(sides)}, where the bulk of the "
        f"values (around {judged.quantile(0.5):.3g}) leads one to expect none"
    )
    return [Finding(table, "outliers", histogram.code, False, rows, len(histogram), words)]


def is_judged(histogram: Histogram) -> bool:
    """Whether a code has values enough to tell which of them are odd."""
    return len(histogram) >= _MIN_VALUES


def compute_robust_bounds(histogram: Histogram) -> tuple[float, float] | None:
    """Beyond which values a value is odd, by the middle 80% of them; None where these are all one
    number.
    """
    is_signed = int(histogram.rows[histogram.values < 0].sum()) >= _SIGNED * len(histogram)
    bulk = histogram
    zeros_count = histogram.quantile(0.5) > 0 or is_signed
    if not zeros_count:
        bulk = histogram.where(histogram.values > 0)
        if not is_judged(bulk):
            return None
    middle = bulk.quantile(0.5)
    shares = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    if is_signed:
        scaled = bulk.quantiles(shares)
        low, high = _bounds(scaled)
        return low, high
    # Like the logarithm above a tenth of the median, straight around zero: so zero has a place.
    unit = middle / 10
    low, high = _bounds(np.arcsinh(bulk.quantiles(shares) / unit))
    lowest = unit * float(np.sinh(max(low, -700.0))) if zeros_count else -np.inf
    return lowest, unit * float(np.sinh(min(high, 700.0)))


def _bounds(quantiles: np.ndarray) -> tuple[float, float]:
    """Ten standard deviations to each side, each by its own quarter and tenth; without any spread,
    none.
    """
    tenth, quarter, middle, three_quarters, nine_tenths = (float(value) for value in quantiles)
    below = max((middle - quarter) / 0.6745, (middle - tenth) / 1.2816)
    above = max((three_quarters - middle) / 0.6745, (nine_tenths - middle) / 1.2816)
    low = middle - _DEVIATIONS * below if below > 0 else -np.inf
    high = middle + _DEVIATIONS * above if above > 0 else np.inf
    return low, high
