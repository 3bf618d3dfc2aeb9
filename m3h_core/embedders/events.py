"""The time-stamped values of samples: in memory, or fetched a block of samples at a time.

Legend: E events, N samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from m3h_core.embedders.base import check_hours, rounded_limits

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


def no_events(n: int) -> EventSequences:
    """N samples of which none has an event."""
    nothing = np.zeros(0)
    return EventSequences(nothing, nothing.astype(str), nothing, nothing, n=n)


def count_samples(items: Events) -> Counter[str]:
    """In how many of the samples each code has a value.

    >>> hours = [-2, -1, -1]
    >>> count_samples(EventSequences([0, 0, 1], ["hr"] * 3, hours, [60, 80, 90], n=2))
    Counter({'hr': 2})
    """
    samples: Counter[str] = Counter()
    for rows in sample_blocks(items.n):
        events = items.take(rows).load()
        is_observed = np.isfinite(events.value)
        names, place = np.unique(events.code[is_observed], return_inverse=True)
        pairs = np.unique(place * events.n + events.sample[is_observed])
        counts = np.bincount(pairs // events.n, minlength=len(names))
        for name, count in zip(names, counts, strict=True):
            samples[str(name) if events.codes is None else events.codes[name]] += int(count)
    return samples


def observed_codes(
    samples: Mapping[str, int], asked: Collection[str] | None = None, min_rows: int = 1
) -> list[str]:
    """The codes with a value in ``min_rows`` samples, sorted; of those ``asked``, if any are, in
    their order. ``samples`` is what `count_samples` gives.
    """
    observed = {code for code, count in samples.items() if count >= min_rows}
    return sorted(observed) if asked is None else [code for code in asked if code in observed]


def sample_blocks(n: int) -> list[np.ndarray]:
    """The samples 0..n-1, a few thousand at a time, at least one block."""
    return [np.arange(low, min(low + _BLOCK, n)) for low in range(0, max(n, 1), _BLOCK)]


def fit_value_scales(events: EventSequences, codes: Sequence[str], is_rounded: bool) -> np.ndarray:
    """Limits, mean and spread of each signal's values [S, 4]."""
    signal = events.signals(codes)
    scales = np.tile([0.0, 0.0, 0.0, 1.0], (len(codes), 1))
    for i in range(len(codes)):
        values = events.value[(signal == i) & np.isfinite(events.value)]
        if len(values):
            low, high = np.percentile(values, (0.5, 99.5))
            if is_rounded:
                low, high = rounded_limits(low, high)
            clipped = np.clip(values, low, high)
            spread = clipped.std()
            scales[i] = (
                low,
                high,
                clipped.mean(),
                spread if spread > 1e-6 * max(abs(clipped.mean()), 1e-6) else 1.0,
            )
    return scales
