"""Time series: statistics of each signal up to the prediction time.

Legend: E events, N samples, S signals, R runs (the events of one signal in one sample).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler, check_hours, spread_positions

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

# Samples at a time: bounds memory.
_BLOCK = 2000


class Events(Protocol):
    """The events of N samples, in memory (`EventSequences`) or wherever :meth:`load` fetches them
    from.
    """

    @property
    def n(self) -> int:
        """N."""
        ...

    def take(self, rows: np.ndarray) -> Events:
        """Those of the samples ``rows`` [n], numbered anew in that order."""
        ...

    def load(self) -> EventSequences:
        """All of them in memory."""
        ...


@dataclass(frozen=True)
class EventSequences:
    """The time-stamped values of N samples, in any order.

    ``sample`` int64 [E] in 0..N-1; ``code`` [E] strings, or positions in ``codes``; ``hours`` float
    [E] relative to the prediction time (not above 0); ``value`` float [E], where a value that is
    not finite counts as not observed; ``n`` = N.
    """

    sample: np.ndarray
    code: np.ndarray
    hours: np.ndarray
    value: np.ndarray
    n: int
    codes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("sample", np.int64), ("hours", np.float64), ("value", np.float64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        object.__setattr__(self, "code", np.asarray(self.code))
        lengths = {len(self.sample), len(self.code), len(self.hours), len(self.value)}
        if len(lengths) > 1:
            raise ValueError(f"sample, code, hours and value differ in length: {sorted(lengths)}")
        if len(self.sample) and not (self.sample.min() >= 0 and self.sample.max() < self.n):
            raise ValueError(f"sample must lie in 0..{self.n - 1}")
        check_hours(self.hours)

    def take(self, rows: np.ndarray) -> EventSequences:
        """The sequences of the samples ``rows`` [n], numbered anew in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        place = np.full(self.n, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        if (place >= 0).sum() != len(rows):
            raise ValueError("rows must be distinct")
        sample = place[self.sample]
        is_taken = sample >= 0
        return EventSequences(
            sample[is_taken],
            self.code[is_taken],
            self.hours[is_taken],
            self.value[is_taken],
            len(rows),
            codes=self.codes,
        )

    def load(self) -> EventSequences:
        """Itself: it is in memory already."""
        return self

    def signals(self, codes: Sequence[str]) -> np.ndarray:
        """Position of each event's code in ``codes``, -1 where it is not among them; int64 [E]."""
        index = {code: i for i, code in enumerate(codes)}
        if self.codes is not None:
            return np.array([index.get(c, -1) for c in self.codes], dtype=np.int64)[self.code]
        return np.fromiter(
            (index.get(c, -1) for c in self.code), dtype=np.int64, count=len(self.code)
        )


def statistics(events: EventSequences, codes: Sequence[str]) -> np.ndarray:
    """:data:`STATISTICS` of each signal in each sample; float64 [N, S, 13], NaN where a signal was
    not observed.

    Differences are between values that follow each other in time (at the same time: in order of
    value), the trend is the least-squares slope, and a peak is higher than its neighbours (a
    plateau counts once), as in scipy's ``find_peaks``. A single value has no variance, difference
    or trend: they are missing, not 0; its sum of absolute differences and its number of peaks are
    0. Values are used as they are: nothing is appended to a series.

    >>> events = EventSequences([0, 0, 0], ["hr"] * 3, [-3, -1, -2], [60, 80, 90], n=1)
    >>> dict(zip(STATISTICS, statistics(events, ["hr"])[0, 0].round(2).tolist()))["trend per hour"]
    10.0
    """
    signal = events.signals(codes)
    used = (signal >= 0) & np.isfinite(events.value)
    run = (events.sample * len(codes) + signal)[used]
    hours = events.hours[used]
    value = events.value[used]
    result = np.full((events.n * len(codes), len(STATISTICS)), np.nan)
    if len(run) == 0:
        return result.reshape(events.n, len(codes), -1)
    order = np.lexsort((value, hours, run))
    run = run[order]
    hours = hours[order]
    value = value[order]

    starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    count = np.diff(np.r_[starts, len(run)])
    ends = starts + count - 1

    def total(of_events: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of_events, starts)

    mean = total(value) / count
    deviation = value - np.repeat(mean, count)
    elapsed = hours - np.repeat(total(hours) / count, count)
    step = np.diff(value, prepend=value[0])
    step[starts] = 0.0
    largest = np.maximum.reduceat(np.abs(step), starts)
    travelled = total(np.abs(step))
    net = value[ends] - value[starts]
    peaks = np.bincount(_peak_events(run, value), minlength=events.n * len(codes))[run[starts]]
    spread = total(elapsed**2)
    several = count > 1
    steps = np.where(several, count - 1, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        trend = np.where(spread > 0, total(elapsed * deviation) / spread, np.nan)
    result[run[starts]] = np.column_stack(
        [
            np.maximum.reduceat(value, starts),
            np.minimum.reduceat(value, starts),
            mean,
            np.where(several, total(deviation**2) / count, np.nan),
            net / steps,
            travelled / steps,
            np.where(several, largest, np.nan),
            travelled,
            np.where(several, net, np.nan),
            peaks,
            trend,
            value[ends],
            np.log1p(count),
        ]
    )
    return result.reshape(events.n, len(codes), -1)


def _peak_events(run: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The run of each peak: one entry a peak."""
    changed = np.r_[True, (run[1:] != run[:-1]) | (value[1:] != value[:-1])]
    run = run[changed]
    value = value[changed]
    inner = (
        (run[1:-1] == run[:-2])
        & (run[1:-1] == run[2:])
        & (value[1:-1] > value[:-2])
        & (value[1:-1] > value[2:])
    )
    return run[1:-1][inner]


class TimeseriesEmbedder(Embedder):
    """Thirteen statistics of each signal, scaled, with a flag for a signal that was not observed.

    ``codes`` are the signals; left out, those of the fitted events. Signals without an event in the
    fitted rows, and columns that do not vary there, are left out, and so are those known in fewer
    than ``min_rows``, of whose patients nothing is then kept; the scale is fitted on at most
    ``fit_samples`` of the rows. A sample is present if one of its events belongs to a fitted
    signal.

    >>> hours = [-2, -1, -1, -5]
    >>> codes = ["hr", "hr", "hr", "k"]
    >>> events = EventSequences([0, 0, 1, 2], codes, hours, [60, 80, 90, 4.1], n=3)
    >>> embedder = TimeseriesEmbedder().fit(events)
    >>> embedder.codes, embedder.transform(events)[1].tolist()
    (['hr', 'k'], [True, True, True])
    """

    modality = "timeseries"
    _scaler: Scaler

    def __init__(
        self, codes: Sequence[str] | None = None, fit_samples: int = 5_000, min_rows: int = 1
    ) -> None:
        super().__init__()
        self.fit_samples = fit_samples
        self.min_rows = min_rows
        self._asked = None if codes is None else list(codes)
        self.codes: list[str] = []

    @property
    def feature_names(self) -> list[str]:
        """What each of the F columns stands for."""
        self._check_fitted()
        names = [f"{code}: {what}" for code in self.codes for what in (*STATISTICS, "missing")] or [
            "nothing"
        ]
        return [names[i] for i in self._scaler.keep]

    def fit(self, items: Events, on_progress: Progress | None = None) -> Self:
        """Learn which signals there are, and their scale."""
        self.codes = observed_codes(items, self._asked, self.min_rows)
        chosen = spread_positions(items.n, self.fit_samples)
        blocks = [self._raw(items.take(chosen[rows]).load()) for rows in sample_blocks(len(chosen))]
        raw = np.concatenate([values[present] for values, present in blocks])
        flags = np.arange(len(STATISTICS), raw.shape[1], len(STATISTICS) + 1)
        self._scaler = Scaler.fit(raw, indicator=flags, min_rows=self.min_rows)
        self.width = len(self._scaler.keep)
        self.report = {"signals": len(self.codes), "fitted on": len(raw)}
        return self

    def transform(
        self, items: Events, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the events of N samples."""
        self._check_fitted()
        vectors = np.zeros((items.n, self.width), dtype=np.float32)
        present = np.zeros(items.n, dtype=bool)
        for rows in sample_blocks(items.n):
            raw, here = self._raw(items.take(rows).load())
            vectors[rows[here]] = self._scaler.transform(raw[here])
            present[rows] = here
            if on_progress:
                on_progress(int(rows[-1]) + 1, items.n)
        return vectors, present

    def _raw(self, events: EventSequences) -> tuple[np.ndarray, np.ndarray]:
        """Statistics and missing flags [n, C], and present [n]."""
        if not self.codes:
            return np.zeros((events.n, 1)), np.zeros(events.n, dtype=bool)
        values = statistics(events, self.codes)
        missing = np.isnan(values[:, :, -1])
        raw = np.concatenate([values, missing[:, :, None]], axis=2)
        return raw.reshape(events.n, -1).astype(np.float32), np.logical_not(np.all(missing, axis=1))

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"codes": self.codes, "report": self.report}, self._scaler.arrays()

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(codes=about["codes"])
        embedder.codes = about["codes"]
        embedder._scaler = Scaler.from_arrays(arrays)
        embedder.report = about["report"]
        return embedder


def observed_codes(
    items: Events, wanted: Sequence[str] | None = None, min_rows: int = 1
) -> list[str]:
    """The codes with a value in ``min_rows`` samples, sorted; of those ``asked``, if any are, in
    their order.
    """
    samples: Counter[str] = Counter()
    for rows in sample_blocks(items.n):
        events = items.take(rows).load()
        is_observed = np.isfinite(events.value)
        names, place = np.unique(events.code[is_observed], return_inverse=True)
        codes, _ = np.unique(np.column_stack([place, events.sample[is_observed]]), axis=0).T
        for at, count in zip(*np.unique(codes, return_counts=True), strict=True):
            samples[str(names[at]) if events.codes is None else events.codes[names[at]]] += int(
                count
            )
    observed = {code for code, count in samples.items() if count >= min_rows}
    return sorted(observed) if wanted is None else [code for code in wanted if code in observed]


def sample_blocks(n: int) -> list[np.ndarray]:
    """The samples 0..n-1, a few thousand at a time, at least one block."""
    return [np.arange(low, min(low + _BLOCK, n)) for low in range(0, max(n, 1), _BLOCK)]
