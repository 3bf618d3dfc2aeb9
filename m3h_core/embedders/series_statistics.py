"""Statistics of each signal up to the prediction time, of all samples in one pass.

Legend: E events, N samples, S signals, R runs (the events of one signal in one sample), K
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from m3h_core.embedders.events import EventSequences

# HAIM's eleven (Soenksen et al. 2022), in its order.
HAIM_STATISTICS = (
    "max",
    "min",
    "mean",
    "variance",
    "mean difference",
    "mean absolute difference",
    "max absolute difference",
    "sum of absolute differences",
    "last minus first",
    "number of peaks",
    "trend per hour",
)
# The last two are ours: how often a signal is measured says much about a stay, and the latest value
# counts most.
STATISTICS = (*HAIM_STATISTICS, "last", "log count")
# How a signal began and how it stood lately. Hours are counted back from the prediction time.
RECENCY = (
    "first",
    "hours since first",
    "hours since last",
    "lower quartile",
    "median",
    "upper quartile",
    "decayed mean",
    "mean of last three",
    "last but one",
    "sum",
)
# The lengths of the last hours that are summed up by themselves.
WINDOWS = (3.0, 6.0, 12.0)
_OF_WINDOW = ("mean", "min", "max", "log count")
# In the decayed mean a value this much older than another weighs half as much.
_HALF_LIFE_HOURS = 4.0


def statistic_names(windows: Sequence[float] | None = WINDOWS) -> list[str]:
    """The K statistics of a signal: `STATISTICS`, `RECENCY`, four of each window, and the trend in
    the longest; without windows (None) `STATISTICS` alone.

    >>> len(statistic_names()), statistic_names([6])[-2:]
    (36, ['log count of last 6 h', 'trend per hour of last 6 h'])
    """
    if windows is None:
        return list(STATISTICS)
    of_windows = [f"{what} of last {hours:g} h" for hours in windows for what in _OF_WINDOW]
    trends = [f"trend per hour of last {hours:g} h" for hours in windows[-1:]]
    return [*STATISTICS, *RECENCY, *of_windows, *trends]


def count_columns(windows: Sequence[float] | None) -> list[int]:
    """Which of the K statistics are 0, not missing, where nothing was observed: counts in windows.

    >>> [statistic_names()[k] for k in count_columns(WINDOWS)][0]
    'log count of last 3 h'
    """
    names = statistic_names(windows)
    return [k for k, name in enumerate(names) if name.startswith("log count of")]


def statistics(
    events: EventSequences, codes: Sequence[str], windows: Sequence[float] | None = WINDOWS
) -> np.ndarray:
    """`statistic_names` of each signal in each sample; float64 [N, S, K], NaN where a signal was
    not observed, but for counts in windows, which are 0.

    Differences are between values that follow each other in time (at the same time: in order of
    value), the trend is the least-squares slope, and a peak is higher than its neighbours (a
    plateau counts once), as in scipy's ``find_peaks``. A single value has no variance, difference
    or trend: they are missing, not 0; its sum of absolute differences and its number of peaks are
    0. Values are used as they are: nothing is appended to a series. ``windows`` are lengths in
    hours, ascending; one of 3 holds what is less than three hours old. The decayed mean weighs a
    value half as much as one four hours younger.

    >>> events = EventSequences([0, 0, 0], ["hr"] * 3, [-3, -1, -2], [60, 80, 90], n=1)
    >>> of_signal = dict(zip(statistic_names(), statistics(events, ["hr"])[0, 0].round(2).tolist()))
    >>> of_signal["trend per hour"], of_signal["mean of last 3 h"], of_signal["hours since last"]
    (10.0, 85.0, 1.0)
    """
    run, table = run_statistics(events, codes, windows)
    result = np.full((events.n * len(codes), table.shape[1]), np.nan)
    result[:, count_columns(windows)] = 0.0
    result[run] = table
    return result.reshape(events.n, len(codes), -1)


def run_statistics(
    events: EventSequences, codes: Sequence[str], windows: Sequence[float] | None = WINDOWS
) -> tuple[np.ndarray, np.ndarray]:
    """`statistics` of what was observed alone: run int64 [R], ascending, and table float64 [R, K].

    Run ``sample * S + signal`` is one signal in one sample.
    """
    signal = events.signals(codes)
    is_used = (signal >= 0) & np.isfinite(events.value)
    run = (events.sample * len(codes) + signal)[is_used]
    if len(run) == 0:
        return run, np.empty((0, len(statistic_names(windows))))
    hours = events.hours[is_used]
    value = events.value[is_used]
    order = np.lexsort((value, hours, run))
    run = run[order]
    starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    runs = _Runs(hours[order], value[order], starts)
    columns = _basic(runs)
    if windows is not None:
        columns += _recency(runs)
        for length in windows:
            columns += _in_window(runs, length)
        columns += [_trend_in_window(runs, length) for length in windows[-1:]]
    return run[starts], np.column_stack(columns)


@dataclass(frozen=True)
class _Runs:
    """Events sorted by run, then time, then value: ``hours`` and ``value`` [E], and where each run
    begins, ``starts`` int64 [R].

    Each sum is over one run by itself, never a difference of sums that run on: a sample alone gets
    the same bits as in company.
    """

    hours: np.ndarray
    value: np.ndarray
    starts: np.ndarray

    @cached_property
    def count(self) -> np.ndarray:
        return np.diff(np.r_[self.starts, len(self.value)])

    @cached_property
    def ends(self) -> np.ndarray:
        return self.starts + self.count - 1

    @cached_property
    def run(self) -> np.ndarray:
        """The run of each event, int64 [E]."""
        return self.spread(np.arange(len(self.starts)))

    @cached_property
    def mean(self) -> np.ndarray:
        return self.total(self.value) / self.count

    @cached_property
    def deviation(self) -> np.ndarray:
        return self.value - self.spread(self.mean)

    def total(self, of_events: np.ndarray) -> np.ndarray:
        """Sums of each run [R]."""
        return np.add.reduceat(of_events, self.starts)

    def spread(self, of_runs: np.ndarray) -> np.ndarray:
        """What belongs to a run, at each of its events [E]."""
        return np.repeat(of_runs, self.count)

    def trend(self) -> np.ndarray:
        """The least-squares slope [R]; NaN where all events of a run lie at one time."""
        elapsed = self.hours - self.spread(self.total(self.hours) / self.count)
        width = self.total(elapsed**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(width > 0, self.total(elapsed * self.deviation) / width, np.nan)

    def window(self, length: float) -> tuple[np.ndarray, _Runs]:
        """Which runs have events in the last hours, bool [R], and these events."""
        is_recent = self.hours > -length
        count = self.total(is_recent.astype(np.int64))
        has_events = count > 0
        starts = np.r_[0, np.cumsum(count[has_events])[:-1]].astype(np.int64)
        return has_events, _Runs(
            self.hours[is_recent], self.value[is_recent], starts[: has_events.sum()]
        )


def _basic(runs: _Runs) -> list[np.ndarray]:
    """`STATISTICS`."""
    value = runs.value
    step = np.diff(value, prepend=value[0])
    step[runs.starts] = 0.0
    largest = np.maximum.reduceat(np.abs(step), runs.starts)
    travelled = runs.total(np.abs(step))
    net = value[runs.ends] - value[runs.starts]
    is_several = runs.count > 1
    steps = np.where(is_several, runs.count - 1, np.nan)
    return [
        np.maximum.reduceat(value, runs.starts),
        np.minimum.reduceat(value, runs.starts),
        runs.mean,
        np.where(is_several, runs.total(runs.deviation**2) / runs.count, np.nan),
        net / steps,
        travelled / steps,
        np.where(is_several, largest, np.nan),
        travelled,
        np.where(is_several, net, np.nan),
        _count_peaks(runs),
        runs.trend(),
        value[runs.ends],
        np.log1p(runs.count),
    ]


def _count_peaks(runs: _Runs) -> np.ndarray:
    run = runs.run
    value = runs.value
    is_new = np.r_[True, (run[1:] != run[:-1]) | (value[1:] != value[:-1])]
    run = run[is_new]
    value = value[is_new]
    is_peak = (
        (run[1:-1] == run[:-2])
        & (run[1:-1] == run[2:])
        & (value[1:-1] > value[:-2])
        & (value[1:-1] > value[2:])
    )
    return np.bincount(run[1:-1][is_peak], minlength=len(runs.starts))


def _recency(runs: _Runs) -> list[np.ndarray]:
    """`RECENCY`."""
    value = runs.value
    weight = np.exp2((runs.hours - runs.spread(runs.hours[runs.ends])) / _HALF_LIFE_HOURS)
    last = value[runs.ends]
    second = value[np.maximum(runs.ends - 1, runs.starts)]
    third = value[np.maximum(runs.ends - 2, runs.starts)]
    latest = (
        last + np.where(runs.count > 1, second, 0.0) + np.where(runs.count > 2, third, 0.0)
    ) / np.minimum(runs.count, 3)
    return [
        value[runs.starts],
        -runs.hours[runs.starts],
        -runs.hours[runs.ends],
        *_quartiles(runs),
        runs.total(weight * value) / runs.total(weight),
        latest,
        np.where(runs.count > 1, second, np.nan),
        runs.total(value),
    ]


def _quartiles(runs: _Runs) -> list[np.ndarray]:
    """As numpy's ``quantile``: between the two nearest values in proportion."""
    ordered = runs.value[np.lexsort((runs.value, runs.run))]
    quartiles = []
    for share in (0.25, 0.5, 0.75):
        position = share * (runs.count - 1)
        below = np.floor(position).astype(np.int64)
        low = ordered[runs.starts + below]
        high = ordered[runs.starts + np.minimum(below + 1, runs.count - 1)]
        quartiles.append(low + (position - below) * (high - low))
    return quartiles


def _in_window(runs: _Runs, length: float) -> list[np.ndarray]:
    """Mean, min, max and log count of the last hours; without an event NaN, and a count of 0."""
    has_events, recent = runs.window(length)
    columns = [np.full(len(has_events), np.nan) for _ in range(3)]
    log_count = np.zeros(len(has_events))
    if has_events.any():
        columns[0][has_events] = recent.mean
        columns[1][has_events] = np.minimum.reduceat(recent.value, recent.starts)
        columns[2][has_events] = np.maximum.reduceat(recent.value, recent.starts)
        log_count[has_events] = np.log1p(recent.count)
    return [*columns, log_count]


def _trend_in_window(runs: _Runs, length: float) -> np.ndarray:
    has_events, recent = runs.window(length)
    trend = np.full(len(has_events), np.nan)
    if has_events.any():
        trend[has_events] = recent.trend()
    return trend
