"""Time series as statistics of each signal, scaled.

Legend: N samples, S signals, K statistics of a signal, C raw columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler, spread_positions
from m3h_core.embedders.events import (
    Events,
    EventSequences,
    count_samples,
    observed_codes,
    sample_blocks,
)
from m3h_core.embedders.series_statistics import (
    WINDOWS,
    count_columns,
    run_statistics,
    statistic_names,
)

# What is told of a signal for which there is no room for more.
_BRIEF = ("last", "log count")
_MISSING = "missing"
# With fewer rows columns are alike by chance.
_LEAST_ROWS = 100


class TimeseriesEmbedder(Embedder):
    """Statistics of each signal, scaled, with a flag for a signal that was not observed.

    ``codes`` are the signals; left out, those of the fitted events. ``windows`` are the lengths, in
    hours up to the prediction time, of the last hours that are summed up by themselves, ascending;
    with None only the thirteen statistics of embedders that were saved before there were windows
    (`m3h_core.embedders.series_statistics` lists all).

    There are at most ``max_columns`` columns. Where signals times statistics are more, signals
    rank by coverage, the share of fitted samples with a value: the first get all statistics, the
    next the last value and the count, and where these alone are too many, at least half of the
    columns go to the first and the last of the rank are left out. ``report`` says how many. Of
    columns of one signal whose correlation, in the fitted rows, is above ``max_correlation``, the
    first stays: what says the same twice only costs time.

    Signals without an event in the fitted rows, and columns that do not vary there, are left out,
    and so are those known in fewer than ``min_rows``, of whose patients nothing is then kept; the
    scale is fitted on at most ``fit_samples`` of the rows. A sample is present if one of its events
    belongs to a fitted signal.

    Raises ValueError where windows are not positive and ascending, or ``max_columns`` has no room
    for one signal.

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
        self,
        codes: Sequence[str] | None = None,
        fit_samples: int = 5_000,
        min_rows: int = 1,
        windows: Sequence[float] | None = WINDOWS,
        max_columns: int = 4_000,
        max_correlation: float = 0.98,
    ) -> None:
        super().__init__()
        self.windows = None if windows is None else [float(length) for length in windows]
        _check_windows(self.windows or [])
        self._names = statistic_names(self.windows)
        if max_columns <= len(self._names):
            raise ValueError(
                f"max_columns is {max_columns}: one signal takes {len(self._names) + 1}"
            )
        self.fit_samples = fit_samples
        self.min_rows = min_rows
        self.max_columns = max_columns
        self.max_correlation = max_correlation
        self._asked = None if codes is None else list(codes)
        # The first of these have all statistics.
        self.codes: list[str] = []
        self._n_detailed = 0

    @property
    def feature_names(self) -> list[str]:
        """What each of the F columns stands for."""
        self._check_fitted()
        names = [f"{code}: {what}" for code, what in self._raw_columns()] or ["nothing"]
        return [names[i] for i in self._scaler.keep]

    def fit(self, items: Events, on_progress: Progress | None = None) -> Self:
        """Learn which signals there are, and their scale."""
        samples = count_samples(items)
        observed = observed_codes(samples, self._asked, self.min_rows)
        self._choose_signals(observed, samples)
        chosen = spread_positions(items.n, self.fit_samples)
        blocks = [self._raw(items.take(chosen[rows]).load()) for rows in sample_blocks(len(chosen))]
        raw = np.concatenate([values[present] for values, present in blocks])
        flags = [i for i, (_, what) in enumerate(self._raw_columns()) if what == _MISSING]
        self._forget_rare_counts(raw)
        scaler = Scaler.fit(raw, indicator=flags, min_rows=self.min_rows)
        self._scaler = replace(scaler, keep=scaler.keep[self._distinct(scaler, raw)])
        self.width = len(self._scaler.keep)
        self.report = {"signals": len(self.codes), "fitted on": len(raw)}
        if self._n_detailed < len(observed):
            least = min(samples[code] for code in self.codes[: self._n_detailed])
            self.report |= {
                "signals with all statistics": self._n_detailed,
                "covering at least this share of samples": round(least / items.n, 3),
                "signals with last value and count only": len(self.codes) - self._n_detailed,
                "signals left out": len(observed) - len(self.codes),
            }
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

    def _choose_signals(self, observed: Sequence[str], samples: Mapping[str, int]) -> None:
        """Which signals have all statistics, and which are told briefly."""
        width = len(self._names) + 1
        brief_width = len(_BRIEF) + 1
        room = (self.max_columns - brief_width * len(observed)) // (width - brief_width)
        n_detailed = min(len(observed), max(room, self.max_columns // 2 // width, 1))
        n_brief = (self.max_columns - n_detailed * width) // brief_width
        ranked = sorted(observed, key=lambda code: (-samples[code], code))
        detailed = set(ranked[:n_detailed])
        brief = set(ranked[n_detailed : n_detailed + n_brief])
        self._n_detailed = n_detailed
        self.codes = [
            *(code for code in observed if code in detailed),
            *(code for code in observed if code in brief),
        ]

    def _raw_columns(self) -> list[tuple[str, str]]:
        """The signal that each of the C raw columns is of, and what it says of it."""
        detailed = self.codes[: self._n_detailed]
        brief = self.codes[self._n_detailed :]
        return [
            *((code, what) for code in detailed for what in (*self._names, _MISSING)),
            *((code, what) for code in brief for what in (*_BRIEF, _MISSING)),
        ]

    def _raw(self, events: EventSequences) -> tuple[np.ndarray, np.ndarray]:
        """Statistics and missing flags float32 [n, C], and present [n]."""
        if not self.codes:
            return np.zeros((events.n, 1), dtype=np.float32), np.zeros(events.n, dtype=bool)
        run, table = run_statistics(events, self.codes, self.windows)
        sample = run // len(self.codes)
        signal = run % len(self.codes)
        detailed = _blank(events.n, self._n_detailed, len(self._names))
        detailed[:, :, count_columns(self.windows)] = 0.0
        is_detailed = signal < self._n_detailed
        _fill(detailed, sample[is_detailed], signal[is_detailed], table[is_detailed])
        brief = _blank(events.n, len(self.codes) - self._n_detailed, len(_BRIEF))
        is_brief = np.logical_not(is_detailed)
        columns = [self._names.index(name) for name in _BRIEF]
        signal -= self._n_detailed
        _fill(brief, sample[is_brief], signal[is_brief], table[is_brief][:, columns])
        present = np.bincount(sample, minlength=events.n) > 0
        return np.hstack([detailed.reshape(events.n, -1), brief.reshape(events.n, -1)]), present

    def _forget_rare_counts(self, raw: np.ndarray) -> None:
        """Make counts of windows that are above 0 in fewer than ``min_rows`` of the rows [n, C]
        unknown, in place: the scaler drops what is known in few rows, and a 0 is known.
        """
        counts = {self._names[k] for k in count_columns(self.windows)}
        columns = [i for i, (_, what) in enumerate(self._raw_columns()) if what in counts]
        for i in columns:
            if (raw[:, i] > 0).sum() < self.min_rows:
                raw[:, i] = np.nan

    def _distinct(self, scaler: Scaler, raw: np.ndarray) -> np.ndarray:
        """Which of the scaled columns no earlier one of their signal is like; bool [F]."""
        is_distinct = np.ones(len(scaler.keep), dtype=bool)
        if len(raw) < _LEAST_ROWS or not self.codes:
            return is_distinct
        scaled = scaler.transform(raw)
        columns = self._raw_columns()
        signals = [columns[i][0] for i in scaler.keep]
        for _, group in groupby(range(len(signals)), signals.__getitem__):
            of_signal = list(group)
            is_distinct[of_signal] = _find_distinct(scaled[:, of_signal], self.max_correlation)
        return is_distinct

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        about = {
            "codes": self.codes,
            "signals with all statistics": self._n_detailed,
            "windows": self.windows,
            "report": self.report,
        }
        return about, self._scaler.arrays()

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        # Saved before there were windows: all signals have the thirteen statistics.
        embedder = cls(codes=about["codes"], windows=about.get("windows"))
        embedder.codes = about["codes"]
        embedder._n_detailed = about.get("signals with all statistics", len(embedder.codes))
        embedder._scaler = Scaler.from_arrays(arrays)
        embedder.report = about["report"]
        return embedder


def _blank(n: int, n_signals: int, n_statistics: int) -> np.ndarray:
    """What is said of signals that were not observed: float32 [n, S, K + 1], the flag last."""
    values = np.full((n, n_signals, n_statistics + 1), np.nan, dtype=np.float32)
    values[:, :, -1] = 1.0
    return values


def _fill(values: np.ndarray, sample: np.ndarray, signal: np.ndarray, table: np.ndarray) -> None:
    """Enter what was observed, a row of ``table`` [R, K] a signal and sample [R], in place."""
    values[sample, signal, :-1] = table
    values[sample, signal, -1] = 0.0


def _find_distinct(columns: np.ndarray, max_correlation: float) -> np.ndarray:
    """Which of the columns [n, C], which all vary, correlate with no earlier one of these by more.

    >>> _find_distinct(np.array([[1.0, 2.0, 0.0], [2.0, 4.1, 5.0], [3.0, 6.0, 0.0]]), 0.95)
    array([ True, False,  True])
    """
    correlation = np.abs(np.corrcoef(columns, rowvar=False)).reshape(columns.shape[1], -1)
    is_distinct = np.zeros(columns.shape[1], dtype=bool)
    for i in range(columns.shape[1]):
        is_distinct[i] = not (correlation[i, :i][is_distinct[:i]] > max_correlation).any()
    return is_distinct


def _check_windows(windows: Sequence[float]) -> None:
    """Raise ValueError where the lengths are not positive, finite and ascending."""
    is_length = all(length > 0 and math.isfinite(length) for length in windows)
    if not is_length or any(shorter >= longer for shorter, longer in pairwise(windows)):
        raise ValueError(f"windows must be positive hours, ascending: {list(windows)}")
