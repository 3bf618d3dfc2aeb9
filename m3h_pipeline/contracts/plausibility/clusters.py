"""Two groups of values within one code that lie a unit's factor apart: one of them is in another
unit.

A long tail is no second group. Two things are asked for: a real valley, so deep that no
distribution with one peak (on the scale of logarithms) is likely to have it, judged by the number
of stays, since the values of one stay are alike; and that one group, converted, is distributed as
the other is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from m3h_pipeline.contracts.plausibility.factors import Conversion, list_conversions
from m3h_pipeline.contracts.plausibility.findings import Finding, format_rows
from m3h_pipeline.contracts.plausibility.histogram import (
    WIDTH,
    Histogram,
    compute_binomial_tail,
    compute_log_ratio,
)
from m3h_pipeline.wording import MIN_GROUP_SIZE

# From this share of the values on, a second group stops the run.
STOPS_FROM = 0.01
# Groups nearer than this (a factor of 1.8) overlap whatever they are.
_NEAREST = 0.6
_STEP = 0.01
# A valley holds at most so much of what an equally wide place on the lower of its two peaks holds.
_DEPTH = 0.5
# How often chance may make a valley out of one peak: the more, the more speaks for the conversion
# (by its rank).
_LEVELS = (1e-3, 1e-4, 1e-5, 1e-5)
# The same for a cut to be looked at.
_CUT_LEVELS = (1e-3, 0.05)
# How far two distributions may be apart beyond chance, and at most; and by how much in value, for
# rounding.
_DISTANCE = 0.25
_FARTHEST = 0.5
_ROUNDING = 0.03
_CHANCE = 1.63
_OFF_CENTRE = 0.08
# Fewer numbers than these, counted by their weight, are a score's or a dose's levels, not a
# measurement.
_MIN_NUMBERS = 4.0
_MOST_GROUPS = 8


@dataclass(frozen=True)
class Pair:
    """Two groups of a code's values: the largest and another; ``medians`` are theirs, ``of`` counts
    all values.

    ``valley``: rows in the other's core, rows in the valley, and the share that the core has of
    both by chance alone.
    """

    code: str
    of: int
    medians: tuple[float, float]
    larger: Histogram
    other: Histogram
    valley: tuple[float, float, float]


def find_mixed_units(
    histograms: Iterable[Histogram], rows: pl.LazyFrame, table: str
) -> list[Finding]:
    """A finding for each code that has a second group a unit's factor away.

    ``rows``: the table with the columns stay_id, code and value, read again only where there is a
    suspicion.
    """
    pairs = [pair for histogram in histograms for pair in find_suspect_pairs(histogram)]
    if not pairs:
        return []
    findings: dict[str, Finding] = {}
    for pair, stays in zip(pairs, _count_stays(pairs, rows), strict=True):
        finding = _judge(pair, stays, table)
        if finding and (pair.code not in findings or finding.rows > findings[pair.code].rows):
            findings[pair.code] = finding
    return list(findings.values())


def find_suspect_pairs(histogram: Histogram) -> list[Pair]:
    """The groups of a code's positive values that could be its values in another unit, by rows
    alone.
    """
    positive = histogram.where(histogram.values > 0)
    # Of what goes through zero, such as a base excess, ratios say nothing.
    if len(positive) < 2 * MIN_GROUP_SIZE or len(positive) < 0.5 * len(histogram):
        return []
    step = _measure_step(positive)
    pairs: list[Pair] = []
    # A small group shows only where cuts come easily, and a larger one then falls apart.
    for level in _CUT_LEVELS:
        groups = _cut_into_groups(positive, step, level)
        larger = max(groups, key=len)
        for other in groups:
            if other is not larger:
                pair = _build_pair(histogram, positive, larger, other, step)
                pairs += [pair] if pair else []
    return pairs


def _cut_into_groups(histogram: Histogram, step: float, level: float) -> list[Histogram]:
    """The values cut at their valleys, ascending."""
    groups = [histogram]
    done: list[Histogram] = []
    while groups and len(groups) + len(done) < _MOST_GROUPS:
        group = groups.pop(0)
        cut = _find_cut(group, step, level)
        if cut is None:
            done.append(group)
        else:
            groups += [group.where(group.values <= cut), group.where(group.values > cut)]
    return sorted(done + groups, key=lambda group: float(group.values[0]))


def _find_cut(histogram: Histogram, step: float, level: float) -> float | None:
    """Where a group falls into two; None where it is one."""
    logs = np.log(histogram.values)
    cells = int((logs[-1] - logs[0]) / _STEP) + 2
    if cells * _STEP < _NEAREST:
        return None
    counts = np.bincount(
        ((logs - logs[0]) / _STEP).astype(int), weights=histogram.rows, minlength=cells
    )
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    total = cumulated[-1]
    edges = np.arange(cells + 1)
    left = cumulated
    right = total - cumulated
    median_left = np.searchsorted(cumulated, left / 2)
    median_right = np.searchsorted(cumulated, left + right / 2)
    apart = (median_right - median_left) * _STEP
    half = np.maximum(np.maximum(apart / 8, 2.5 * step) / _STEP, 1).astype(int)

    def near(place: np.ndarray) -> np.ndarray:
        return (
            cumulated[np.clip(place + half, 0, cells)] - cumulated[np.clip(place - half, 0, cells)]
        )

    valley = near(edges)
    peak = np.minimum(near(median_left), near(median_right))
    possible = (
        (np.minimum(left, right) >= MIN_GROUP_SIZE)
        & (apart >= _NEAREST)
        & (valley <= _DEPTH * peak)
    )
    if not possible.any():
        return None
    depth = np.where(possible, valley / np.maximum(peak, 1), np.inf)
    best = float(depth.min())
    cut = _find_middle_of_longest_run(depth <= best + 1e-9)
    if compute_binomial_tail(int(peak[cut]), int(peak[cut] + valley[cut]), 0.5) > level:
        return None
    return math.exp(logs[0] + cut * _STEP)


def _find_middle_of_longest_run(flags: np.ndarray) -> int:
    padded = np.concatenate([[False], flags, [False]]).astype(int)
    changes = np.diff(padded)
    starts = np.flatnonzero(changes == 1)
    ends = np.flatnonzero(changes == -1)
    longest = int(np.argmax(ends - starts))
    return int((starts[longest] + ends[longest] - 1) // 2)


def _build_pair(
    histogram: Histogram, positive: Histogram, larger: Histogram, other: Histogram, step: float
) -> Pair | None:
    """The largest group and another, unless the other can't be a measurement in another unit."""
    if (
        len(other) < MIN_GROUP_SIZE
        or min(_count_numbers(larger), _count_numbers(other)) < _MIN_NUMBERS
    ):
        return None
    medians = (larger.quantile(0.5), other.quantile(0.5))
    apart = abs(compute_log_ratio(medians[0], medians[1]))
    if apart < _NEAREST:
        return None
    valley = _measure_valley(positive, other, medians[1] > medians[0], apart, step)
    return Pair(histogram.code, len(histogram), medians, larger, other, valley)


def _count_numbers(group: Histogram) -> float:
    """How many different numbers a group holds, each by its weight."""
    shares = group.rows / group.rows.sum()
    return float(1 / (shares**2).sum())


def _measure_step(histogram: Histogram) -> float:
    """How far apart the frequent values lie: what is heaped at round numbers has gaps of its own
    between them.
    """
    frequent = histogram.values[histogram.rows >= 0.01 * len(histogram)]
    return float(np.quantile(np.diff(np.log(frequent)), 0.75)) if len(frequent) > 1 else 0.0


def _measure_valley(
    whole: Histogram, other: Histogram, is_higher: bool, apart: float, step: float
) -> tuple[float, float, float]:
    """How much the valley beside a group says against one peak, and the shares that say it.

    With one peak, which lies on the other side, no place between is emptier for its width than the
    group's core: of the rows in both, the core has at most ``chance``. Returns rows in the core,
    rows in the emptiest place, chance.
    """
    core = np.log(other.quantiles(np.array([0.1, 0.9])))
    logs = np.log(whole.values)
    cumulated = np.concatenate([[0], np.cumsum(whole.rows)])

    def within(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        below = cumulated[np.searchsorted(logs, low, side="left")]
        return cumulated[np.searchsorted(logs, high, side="right")] - below

    inside = int(within(core[0], core[1]))
    width = core[1] - core[0] + _STEP
    narrowest = max(0.1 * apart, 3 * step)
    shapes = np.meshgrid(
        np.linspace(0.01, 0.5, 15) * apart, np.linspace(narrowest, max(0.8 * apart, narrowest), 15)
    )
    starts, widths = (axis.ravel() for axis in shapes)
    near = core[0] - starts if is_higher else core[1] + starts
    far = near - widths if is_higher else near + widths
    rows = within(np.minimum(near, far), np.maximum(near, far))
    chances = width / (width + widths)
    best = int(np.argmax(_compute_information(inside, rows, chances)))
    return float(inside), float(rows[best]), float(chances[best])


def _compute_information(inside: int, outside: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """How unlikely it is that ``inside`` of all rows are inside, on the scale of logarithms; 0
    where it is likely.
    """
    share = inside / (inside + outside)
    beyond = share * np.log(share / chances)
    rest = np.where(
        outside > 0, (1 - share) * np.log(np.maximum(1 - share, 1e-300) / (1 - chances)), 0.0
    )
    return np.where(share > chances, (inside + outside) * (beyond + rest), 0.0)


def _count_stays(pairs: Sequence[Pair], rows: pl.LazyFrame) -> list[tuple[int, int]]:
    """Of each pair, the different stays that have a value in the larger group and in the other."""
    counts = []
    for i, pair in enumerate(pairs):
        for name, group in (("larger", pair.larger), ("other", pair.other)):
            # A bin is named by its middle, so its ends lie a little beyond.
            low = group.values[0] * (1 - WIDTH)
            high = group.values[-1] * (1 + WIDTH)
            is_inside = (pl.col("code") == pair.code) & pl.col("value").is_between(low, high)
            counts.append(pl.col("stay_id").filter(is_inside).n_unique().alias(f"{i} {name}"))
    of_pairs = rows.filter(pl.col("code").is_in([pair.code for pair in pairs]))
    counts_by_name = of_pairs.select(counts).collect(engine="streaming").row(0, named=True)
    return [
        (counts_by_name[f"{i} larger"], counts_by_name[f"{i} other"]) for i in range(len(pairs))
    ]


def _judge(pair: Pair, stays: tuple[int, int], table: str) -> Finding | None:
    """A finding where the valley is beyond chance and one group is the other in another unit."""
    if min(stays) < MIN_GROUP_SIZE:
        return None
    # The values of one stay are alike, so that its rows count as one.
    weight = stays[1] / len(pair.other)
    inside, outside = (math.floor(rows * weight) for rows in pair.valley[:2])
    by_chance = compute_binomial_tail(inside, inside + outside, pair.valley[2])
    if by_chance > max(_LEVELS):
        return None
    conversion = _find_best_conversion(pair, stays)
    if conversion is None or by_chance > _LEVELS[conversion.rank]:
        return None
    ratio = max(pair.medians) / min(pair.medians)
    words = (
        f"two groups of values a factor of {ratio:.3g} apart, as {conversion.words}: "
        f"{format_rows(len(pair.other), pair.of)} lie around {pair.medians[1]:.3g}, the others "
        f"around {pair.medians[0]:.3g}"
    )
    stops = len(pair.other) >= STOPS_FROM * pair.of
    return Finding(table, "units", pair.code, stops, len(pair.other), pair.of, words)


def _find_best_conversion(pair: Pair, stays: tuple[int, int]) -> Conversion | None:
    """The conversion that makes the lower group's distribution the higher one's; the likeliest of
    those that do.
    """
    low, high = sorted((pair.larger, pair.other), key=lambda group: float(group.values[0]))
    chance = _CHANCE * math.sqrt(1 / stays[0] + 1 / stays[1])
    allowed = min(_DISTANCE + chance, _FARTHEST)
    fitting: list[tuple[int, float, Conversion]] = []
    for conversion in list_conversions(pair.code):
        apart = compute_distance(low, high, conversion)
        if apart <= allowed and (
            conversion.is_named or _is_centred(low, high, conversion, min(stays))
        ):
            fitting.append((conversion.rank, apart, conversion))
    return min(fitting, key=lambda fit: fit[:2])[2] if fitting else None


def _is_centred(low: Histogram, high: Histogram, conversion: Conversion, stays: int) -> bool:
    """Whether the medians agree once converted, but for chance: asked for where nothing else speaks
    for a unit.
    """
    middle = float(conversion.apply(np.array([low.quantile(0.5)]))[0])
    if middle <= 0:
        return False
    upper, lower = high.quantiles(np.array([0.75, 0.25]))
    spread = compute_log_ratio(float(upper), float(lower)) / 1.35
    return abs(
        compute_log_ratio(high.quantile(0.5), middle)
    ) <= _OFF_CENTRE + 4 * spread / math.sqrt(stays)


def compute_distance(low: Histogram, high: Histogram, conversion: Conversion) -> float:
    """How far apart two distributions are once the lower is converted: Kolmogorov-Smirnov's, but
    for rounding.
    """
    if conversion.only_within is not None:
        floor, ceiling = conversion.only_within
        if not floor <= low.quantile(0.5) <= ceiling:
            return math.inf
    converted = conversion.apply(low.values)
    keep = converted > 0
    if not keep.any():
        return math.inf
    one = np.log(converted[keep])
    other = np.log(high.values)
    share = _cumulate(one, low.rows[keep])
    share_other = _cumulate(other, high.rows)
    places = np.concatenate([one, other])
    above = share_other(places) - share(places + _ROUNDING)
    below = share(places - _ROUNDING) - share_other(places)
    return float(max(above.max(), below.max()))


def _cumulate(values: np.ndarray, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The share of the rows at or below a value."""
    cumulated = np.concatenate([[0.0], np.cumsum(rows) / rows.sum()])
    return lambda at: cumulated[np.searchsorted(values, at, side="right")]
