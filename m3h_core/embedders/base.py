"""What every embedder shares: fit, transform, save and load, scaling, and pooling over time.

Legend of the shapes: N samples, M items (notes or images) of all samples, F width of the embedding,
C raw columns.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from safetensors.numpy import load_file, save_file

# Called with (done, total) while items are embedded.
Progress = Callable[[int, int], None]

_FORMAT = 1
_JSON = "embedder.json"
_ARRAYS = "embedder.safetensors"


class Unreadable(NamedTuple):
    """An item without a vector: its sample's row, its place among that sample's items, and why."""

    sample: int
    item: int
    reason: str


def list_unreadable(
    rows: np.ndarray, sample: np.ndarray, reasons: Mapping[int, str]
) -> list[Unreadable]:
    """The items of a block that have no vector: ``reasons`` by position among the block's items.

    ``rows`` [n] are the block's samples, ``sample`` int [M] the sample of each of its items.
    """
    return [
        Unreadable(int(rows[sample[i]]), int(i - np.searchsorted(sample, sample[i])), reason)
        for i, reason in reasons.items()
    ]


class Embedder(ABC):
    """One modality's way from raw items to vectors.

    Whatever is learned from data is learned in :meth:`fit`, from the items given to it and nothing
    else; give it the training split. A saved embedder yields the same vectors in another process.

    ``width`` is F, known once fitted; ``report`` holds facts about the encoder that are worth
    showing. ``cache`` is a folder that keeps the vectors of single items from run to run
    (`m3h_core.embedders.store`), for encoders that are dear to run; it changes no result, and does
    not travel with a saved embedder. After :meth:`transform`, ``unreadable`` lists the items that
    have no vector, and ``computed`` counts those that the encoder was run on: the others were known
    from the cache, from :meth:`fit`, or as equals of these.
    """

    modality: str

    def __init__(self) -> None:
        self.width = 0
        self.report: dict[str, Any] = {}
        self.cache: Path | None = None
        self.unreadable: list[Unreadable] = []
        self.computed = 0

    @abstractmethod
    def fit(self, items: Any, on_progress: Progress | None = None) -> Self:
        """Learn from the items of the training split; progress counts samples, images or passes
        over them.
        """

    @abstractmethod
    def transform(
        self, items: Any, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed N samples: vectors float32 [N, F] and present bool [N]. Rows that are not present
        are 0.

        Raises ValueError where the embedder is not fitted, or an item lies after the prediction
        time.
        """

    def fill_cache(self, items: Any) -> None:  # noqa: B027  (only encoders with a cache need it)
        """Run the encoder on items that are not in the ``cache`` yet: the part of the work that
        other machines can do.

        Needs no fit; what `fit` and `transform` make of it is the same. Encoders that cache nothing
        do nothing.
        """

    def check(self) -> None:  # noqa: B027  (only encoders with a checkpoint need it)
        """Raise ValueError where the encoder can't be had. Needs no fit; what needs no checkpoint
        does nothing.
        """

    def save(self, folder: str | Path) -> None:
        """Write ``embedder.json`` and ``embedder.safetensors`` into an existing or new folder."""
        self._check_fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about, arrays = self._state()
        # Contiguous: safetensors writes an array's buffer as it lies in memory.
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS
        )
        header = {
            "format": _FORMAT,
            "class": type(self).__name__,
            "modality": self.modality,
            "width": self.width,
        }
        self._save_more(folder)
        (folder / _JSON).write_text(json.dumps(header | about, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote. Raises ValueError where the folder holds another class or
        format.
        """
        about = read_about(folder)
        if about["class"] != cls.__name__:
            raise ValueError(f"{folder} holds a {about['class']}, not a {cls.__name__}")
        embedder = cls._restore(about, load_file(Path(folder) / _ARRAYS), Path(folder))
        embedder.width = about["width"]
        return embedder

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is to be saved: JSON-ready facts, and arrays."""

    @classmethod
    @abstractmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        """The inverse of :meth:`_state`."""

    def _save_more(self, folder: Path) -> None:  # noqa: B027  (only encoders with files of their own need it)
        """Write further files, such as weights."""

    def _check_fitted(self) -> None:
        if not self.width:
            raise ValueError(f"this {type(self).__name__} is not fitted: call fit first")


def read_about(folder: str | Path) -> dict[str, Any]:
    """The JSON of a saved embedder. Raises ValueError where there is none, or of another format."""
    file = Path(folder) / _JSON
    if not file.exists():
        raise ValueError(f"{folder} holds no embedder: {_JSON} is missing")
    about = json.loads(file.read_text())
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{file}: embedder format {about.get('format')!r}, this version reads {_FORMAT}"
        )
    return about


@dataclass(frozen=True)
class Scaler:
    """Columns brought to mean 0 and spread 1, as fitted; missing values become 0, the mean.

    Values are first limited to the fitted 0.5th and 99.5th percentile, so that one outlier neither
    sets the scale nor dominates a vector. Indicator columns (flags, one-hot) stay 0 or 1. Columns
    that did not vary in the fitted rows carry nothing, and weights on them would stay untrained:
    they are dropped (one column is always left).

    Arrays of shape [C]: ``low``, ``high``, ``mean``, ``scale``; ``keep`` int64 [F], the columns
    that remain.

    >>> raw = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 1.0], [np.nan, 5.0, 1.0]])
    >>> scaler = Scaler.fit(raw, indicator=[2])
    >>> scaler.transform(np.array([[2.0, 9.0, 1.0], [np.nan, 5.0, 0.0]]))
    array([[0., 1.],
           [0., 0.]], dtype=float32)
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    keep: np.ndarray

    @classmethod
    def fit(
        cls, raw: np.ndarray, indicator: Any = (), drop: bool = True, min_rows: int = 1
    ) -> Scaler:
        """Fit on rows [n, C], where NaN is missing; ``indicator`` lists the columns that are flags.

        With ``drop=False`` columns that do not vary are centred and kept. With ``min_rows`` above 1
        no value of a few rows can be read from it: columns known in fewer are dropped, and limits
        are rounded (`rounded_limits`).
        """
        raw = np.asarray(raw, dtype=np.float64)
        is_known = np.isfinite(raw)
        count = is_known.sum(axis=0)
        low, high = _limits(raw, is_known)
        if min_rows > 1:
            low, high = rounded_limits(low, high)
        flags = np.zeros(raw.shape[1], dtype=bool)
        flags[np.asarray(indicator, dtype=np.int64)] = True
        low[flags] = 0.0
        high[flags] = 1.0
        clipped = np.where(is_known, np.clip(raw, low, high), 0.0)
        mean = clipped.sum(axis=0) / np.maximum(count, 1)
        spread = np.sqrt(
            (np.where(is_known, clipped - mean, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1)
        )
        varies = (spread > 1e-7 * np.maximum(np.abs(mean), 1e-6)) & (count >= min_rows)
        mean[flags] = 0.0
        scale = np.where(varies & ~flags, spread, 1.0)
        for part in (low, high, mean):
            part[count < min_rows] = 0.0
        keep = np.flatnonzero(varies) if drop else np.arange(raw.shape[1])
        return cls(low, high, mean, scale, keep if len(keep) else np.arange(min(1, raw.shape[1])))

    def transform(self, raw: np.ndarray) -> np.ndarray:
        """Scale rows [n, C]; float32 [n, F]."""
        raw = raw[:, self.keep]
        scaled = np.clip(raw, self.low[self.keep], self.high[self.keep]) - self.mean[self.keep]
        return np.nan_to_num(scaled / self.scale[self.keep]).astype(np.float32)

    def arrays(self, prefix: str = "scaler") -> dict[str, np.ndarray]:
        """For safetensors; read back by :meth:`from_arrays`."""
        return {
            f"{prefix}/{name}": getattr(self, name)
            for name in ("low", "high", "mean", "scale", "keep")
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "scaler") -> Scaler:
        """Read what :meth:`arrays` gave."""
        return cls(
            *(arrays[f"{prefix}/{name}"] for name in ("low", "high", "mean", "scale", "keep"))
        )


def rounded_limits(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits [C] moved outwards to multiples of a power of ten, at most a hundredth of the span
    between them.

    >>> rounded_limits(np.array([36.472, 5.0]), np.array([93.118, 5.0]))
    (array([36.4,  5. ]), array([93.2,  5. ]))
    """
    step = 10 ** np.floor(np.log10(np.maximum(high - low, 1e-12) / 100))
    wide = high > low
    return np.where(wide, np.floor(low / step) * step, low), np.where(
        wide, np.ceil(high / step) * step, high
    )


def _limits(raw: np.ndarray, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 0.5th and 99.5th percentile of the known values of each column; 0 where none is known."""
    # Sorting puts what is missing at the end, so that one sort serves all columns.
    ordered = np.sort(np.where(is_known, raw, np.inf), axis=0)
    columns = np.arange(raw.shape[1])
    last = is_known.sum(axis=0) - 1
    limits = []
    for share in (0.005, 0.995):
        position = share * np.maximum(last, 0)
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(last, 0))
        if len(ordered) == 0:
            limits.append(np.zeros(raw.shape[1]))
            continue
        start = ordered[below, columns]
        end = ordered[above, columns]
        empty = last < 0
        start = np.where(empty, 0.0, start)
        end = np.where(empty, 0.0, end)
        limits.append(start + (position - below) * (end - start))
    return limits[0], limits[1]


class Block(NamedTuple):
    """Some samples: their rows [n], and the items of each."""

    rows: np.ndarray
    items: list[Sequence[Any]]


Sized = Callable[[Sequence[Any]], int]


def check_hours(hours: np.ndarray) -> None:
    """Raise ValueError where hours relative to the prediction time are unknown or after it: that
    would be a leak.
    """
    if not np.all(hours <= 0):
        raise ValueError(
            "hours must be numbers that are not above 0: an item after the prediction time is a "
            "leak"
        )


def pool_by_recency(
    vectors: np.ndarray, sample: np.ndarray, hours: np.ndarray, n: int, half_life: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of each sample's items; an item ``half_life`` hours older than another weighs
    half as much.

    ``vectors`` float [M, F]; ``sample`` int [M], ascending, in 0..N-1; ``hours`` float [M], not
    above 0. Returns float32 [N, F] and present bool [N]. Only differences of age count, so a lone
    old item keeps weight 1.

    >>> vectors = np.array([[0.0], [3.0]])
    >>> hours = np.array([-24.0, 0.0])
    >>> pooled, present = pool_by_recency(vectors, np.array([1, 1]), hours, 2, 24.0)
    >>> pooled.tolist(), present.tolist()
    ([[0.0], [2.0]], [False, True])
    """
    pooled = np.zeros((n, vectors.shape[1]), dtype=np.float32)
    present = np.zeros(n, dtype=bool)
    if len(sample) == 0:
        return pooled, present
    starts = np.flatnonzero(np.r_[True, sample[1:] != sample[:-1]])
    counts = np.diff(np.r_[starts, len(sample)])
    newest = np.repeat(np.maximum.reduceat(hours, starts), counts)
    weights = np.exp2((hours - newest) / half_life)
    weights = (weights / np.repeat(np.add.reduceat(weights, starts), counts)).astype(np.float32)
    pooled[sample[starts]] = np.add.reduceat(vectors * weights[:, None], starts, axis=0)
    present[sample[starts]] = True
    return pooled, present


def blocks(
    items: Sequence[Sequence[Any]], rows: Iterable[int], most: int, size: Sized
) -> Iterator[Block]:
    """The samples ``rows`` in their order, a few at a time: a block is closed once its items weigh
    ``most``.

    So that nothing holds all items at once: ``items`` may be a sequence that reads them when asked.
    ``rows`` [n] of a block say where its samples lie.
    """
    block: list[Sequence[Any]] = []
    places: list[int] = []
    weight = 0
    for row in rows:
        block.append(items[row])
        places.append(row)
        weight += size(block[-1])
        if weight >= most:
            yield Block(np.array(places), block)
            block = []
            places = []
            weight = 0
    if block:
        yield Block(np.array(places), block)


def flatten(
    items: Sequence[Sequence[tuple[Any, ...]]],
) -> tuple[np.ndarray, np.ndarray, list[tuple[Any, ...]]]:
    """N lists of (hours, ...) as sample int64 [M], hours float64 [M] and the rest of the M
    tuples.
    """
    sample = np.repeat(np.arange(len(items)), [len(row) for row in items])
    flat = [item for row in items for item in row]
    hours = np.array([item[0] for item in flat], dtype=np.float64)
    check_hours(hours)
    return sample, hours, [item[1:] for item in flat]


def spread_positions(n: int, at_most: int) -> np.ndarray:
    """At most ``at_most`` of the positions 0..n-1, evenly spread.

    >>> spread_positions(10, 4).tolist(), spread_positions(2, 4).tolist()
    ([0, 2, 5, 7], [0, 1])
    """
    return np.arange(n) if n <= at_most else np.arange(at_most) * n // at_most
