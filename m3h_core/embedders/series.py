"""Time series in equal steps, for a network that reads one step after the other.

A vector holds, step by step, for each signal: its scaled value, carried forward from step to step
until the next; whether one was observed in the step; and how recent the last one is.

Legend: N samples, L steps, S signals, E events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, spread_positions
from m3h_core.embedders.events import (
    Events,
    EventSequences,
    count_samples,
    fit_value_scales,
    observed_codes,
    sample_blocks,
)

# Value, observed or not, recency.
_CHANNELS = 3
# Hours after which the recency of a value has fallen to 1 / e.
_RECENT_HOURS = 6.0


class SeriesEmbedder(Embedder):
    """The last ``hours`` before the prediction time in ``steps`` of equal length.

    A step's value of a signal is the mean of those observed in it, or the last one before; the mean
    of the fitted values stands where none was observed yet. At most ``max_signals`` are read, those
    of most fitted samples, each of at least ``min_rows``. Vectors are float32 [N, L * 3 * S]; a
    sample is present if one of its events belongs to a signal that is read.

    >>> events = EventSequences([0, 0, 1], ["hr"] * 3, [-3.5, -0.5, -2.0], [60, 80, 70], n=2)
    >>> embedder = SeriesEmbedder(steps=4, hours=4.0).fit(events)
    >>> vectors, present = embedder.transform(events)
    >>> vectors.reshape(2, 4, 3)[0].round(1)  # a row a step: value, observed, recency
    array([[-1.2,  1. ,  0.9],
           [-1.2,  0. ,  0.8],
           [-1.2,  0. ,  0.7],
           [ 1.2,  1. ,  0.9]], dtype=float32)
    """

    modality = "series"

    def __init__(
        self,
        steps: int = 24,
        hours: float = 24.0,
        max_signals: int = 64,
        fit_samples: int = 20_000,
        min_rows: int = 1,
    ) -> None:
        super().__init__()
        if steps < 1 or not hours > 0 or max_signals < 1:
            raise ValueError(
                f"steps, hours and max_signals must be positive: {steps}, {hours}, {max_signals}"
            )
        self.steps = steps
        self.hours = hours
        self.max_signals = max_signals
        self.fit_samples = fit_samples
        self.min_rows = min_rows
        self.codes: list[str] = []
        # [S, 4]: low and high limit, mean and spread of each signal's values.
        self._scales = np.zeros((0, 4))

    def fit(self, items: Events, on_progress: Progress | None = None) -> Self:
        """Learn which signals there are, and their scale."""
        samples = count_samples(items)
        observed = observed_codes(samples, min_rows=self.min_rows)
        ranked = sorted(observed, key=lambda code: (-samples[code], code))
        self.codes = sorted(ranked[: self.max_signals])
        events = items.take(spread_positions(items.n, self.fit_samples)).load()
        self._scales = fit_value_scales(events, self.codes, self.min_rows > 1)
        # Without a signal there is one column, which is 0.
        self.width = max(1, len(self.codes)) * _CHANNELS * self.steps
        self.report = {
            "signals": len(self.codes),
            "signals left out": len(observed) - len(self.codes),
            "steps": self.steps,
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
            if self.codes:
                vectors[rows], present[rows] = self._resample(items.take(rows).load())
            if on_progress:
                on_progress(int(rows[-1]) + 1, items.n)
        return vectors, present

    def _resample(self, events: EventSequences) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, L * 3 * S] and present [n]."""
        signal = events.signals(self.codes)
        is_read = (signal >= 0) & np.isfinite(events.value)
        sample = events.sample[is_read]
        signal = signal[is_read]
        hours = events.hours[is_read]
        low, high, mean, spread = self._scales[signal].T
        value = (np.clip(events.value[is_read], low, high) - mean) / spread
        length = self.hours / self.steps
        # Step 0 is all that lies before the first.
        step = np.floor((hours + self.hours) / length).astype(np.int64) + 1
        step = np.clip(step, 0, self.steps)
        shape = (events.n, self.steps + 1, len(self.codes))
        place = np.ravel_multi_index((sample, step, signal), shape)
        means, last_hours = _sum_up(place, value, hours, step == 0, int(np.prod(shape)))
        means = means.reshape(shape)
        last_hours = last_hours.reshape(shape)
        ends = length * np.arange(1, self.steps + 1) - self.hours
        steps_nLCS = np.zeros((events.n, self.steps, _CHANNELS, len(self.codes)), np.float32)
        for at in range(1, self.steps + 1):
            is_observed = np.isfinite(means[:, at])
            means[:, at] = np.where(is_observed, means[:, at], means[:, at - 1])
            last_hours[:, at] = np.maximum(last_hours[:, at], last_hours[:, at - 1])
            age = ends[at - 1] - last_hours[:, at]
            steps_nLCS[:, at - 1, 0] = np.nan_to_num(means[:, at])
            steps_nLCS[:, at - 1, 1] = is_observed
            steps_nLCS[:, at - 1, 2] = np.exp(-age / _RECENT_HOURS)
        present = np.bincount(sample, minlength=events.n) > 0
        return steps_nLCS.reshape(events.n, -1), present

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("steps", "hours", "max_signals", "fit_samples")
        about = {
            "options": {name: getattr(self, name) for name in names},
            "codes": self.codes,
            "report": self.report,
        }
        return about, {"scales": self._scales}

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        embedder.codes = about["codes"]
        embedder.report = about["report"]
        embedder._scales = arrays["scales"]
        return embedder


def _sum_up(
    place: np.ndarray, value: np.ndarray, hours: np.ndarray, is_before: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """What E events say of each place among ``size``: the mean of its values, of those before the
    first step the last value; and the hours of its last event. NaN and -inf where there is none.
    """
    count = np.bincount(place, minlength=size)
    total = np.bincount(place, weights=value, minlength=size)
    means = np.full(size, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    last_hours = np.full(size, -np.inf)
    np.maximum.at(last_hours, place, hours)
    before = np.flatnonzero(is_before)
    ordered = before[np.lexsort((value[before], hours[before]))]
    means[place[ordered]] = value[ordered]
    return means, last_hours
