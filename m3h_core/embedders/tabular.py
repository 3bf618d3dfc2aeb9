"""Tabular columns: where a number stands among the fitted ones, categories, what is missing; and
sets of codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler
from m3h_core.embedders.codes import CodesEmbedder
from m3h_core.embedders.events import no_events

# The item that is no column: records of codes, as `m3h_core.embedders.events.Events`.
CODES = "codes"
_QUANTILES = 256


class TabularEmbedder(Embedder):
    """Columns {name: [N]} of numbers (NaN or None: missing) or strings (None or "": missing).

    A number gives its quantile among the fitted values, its scaled value and a flag for missing. A
    string gives a one-hot vector over the fitted categories; categories of fewer than ``min_rows``
    rows share one column, where categories that were never seen go too; missing has a column of its
    own. A quantile is the mean of ``min_rows`` neighbouring values or more: what is fitted holds no
    value of a few rows. Columns that never varied in the fitted rows are left out. Records of
    codes, under the name ``codes`` where there are any, follow as `CodesEmbedder` embeds them. A
    sample is present if any of its columns is known, or if it has any such record.

    >>> sex = np.array(["F", "M", "F", "M"], dtype=object)
    >>> items = {"age": np.array([40.0, 60.0, 80.0, np.nan]), "sex": sex}
    >>> embedder = TabularEmbedder(min_rows=1).fit(items)
    >>> embedder.feature_names
    ['age: quantile', 'age: value', 'age: missing', 'sex: F', 'sex: M']
    >>> items = {"age": np.array([60.0]), "sex": np.array(["X"], dtype=object)}
    >>> vectors, present = embedder.transform(items)
    >>> vectors.round(1).tolist(), present.tolist()
    ([[0.0, 0.0, 0.0, 0.0, 0.0]], [True])
    """

    modality = "tabular"
    _scaler: Scaler

    def __init__(self, min_rows: int = 5) -> None:
        super().__init__()
        self.min_rows = min_rows
        self.columns: list[str] = []
        # Fitted quantiles: column -> (distinct values [Q], their places in 0..1 [Q]).
        self._quantiles: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._categories: dict[str, list[str]] = {}
        self.codes: CodesEmbedder | None = None

    @property
    def feature_names(self) -> list[str]:
        """What each of the F columns stands for."""
        self._check_fitted()
        names = [name for name, _ in self._names()]
        of_codes = self.codes.feature_names if self.codes else []
        return [*(names[i] for i in self._scaler.keep), *of_codes]

    def fit(self, items: Mapping[str, Any], on_progress: Progress | None = None) -> Self:
        """Learn quantiles, categories and codes."""
        self.columns = [name for name in items if name != CODES]
        self._quantiles = {}
        self._categories = {}
        for name in self.columns:
            values = items[name]
            if _is_numeric(values):
                numbers = _numbers(name, values)
                self._quantiles[name] = _quantiles(numbers[np.isfinite(numbers)], self.min_rows)
            else:
                categories, counts = np.unique(
                    [t for t in map(_text, values) if t is not None], return_counts=True
                )
                self._categories[name] = [str(c) for c in categories[counts >= self.min_rows]]
        raw, _ = self._raw(items)
        flags = [i for i, (_, flag) in enumerate(self._names()) if flag]
        self._scaler = Scaler.fit(raw, indicator=flags, min_rows=self.min_rows)
        self.width = len(self._scaler.keep)
        self.report = {"columns": len(self.columns), "fitted on": len(raw)}
        self.codes = None
        if CODES in items:
            self.codes = CodesEmbedder(self.min_rows).fit(items[CODES])
            self.width += self.codes.width
            self.report |= self.codes.report
        return self

    def transform(
        self, items: Mapping[str, Any], on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed; raises ValueError where a fitted column is missing or a number is none.

        Without ``codes`` no sample has a record of any.
        """
        self._check_fitted()
        missing = [name for name in self.columns if name not in items]
        if missing:
            raise ValueError(f"tabular columns are missing: {', '.join(missing)}")
        raw, present = self._raw(items)
        vectors = self._scaler.transform(raw)
        if self.codes:
            records = items[CODES] if CODES in items else no_events(len(raw))
            of_codes, has_codes = self.codes.transform(records)
            vectors = np.hstack([vectors, of_codes])
            present = present | has_codes
        vectors[~present] = 0
        if on_progress:
            on_progress(len(raw), len(raw))
        return vectors, present

    def _names(self) -> list[tuple[str, bool]]:
        """Name of each raw column, and whether it is an indicator."""
        names: list[tuple[str, bool]] = []
        for column in self.columns:
            if column in self._quantiles:
                names += [
                    (f"{column}: quantile", False),
                    (f"{column}: value", False),
                    (f"{column}: missing", True),
                ]
            else:
                kinds = [*self._categories[column], "(other)", "(missing)"]
                names += [(f"{column}: {kind}", True) for kind in kinds]
        return names or [("nothing", True)]

    def _raw(self, items: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        n = _count_rows(items)
        parts: list[np.ndarray] = []
        present = np.zeros(n, dtype=bool)
        for column in self.columns:
            if column in self._quantiles:
                numbers = _numbers(column, items[column])
                is_known = np.isfinite(numbers)
                values, places = self._quantiles[column]
                quantile = np.where(is_known, np.interp(numbers, values, places), np.nan)
                parts.append(
                    np.column_stack([quantile, np.where(is_known, numbers, np.nan), ~is_known])
                )
            else:
                categories = self._categories[column]
                index = {category: i for i, category in enumerate(categories)}
                other = len(categories)
                unknown = len(categories) + 1
                texts = [_text(value) for value in items[column]]
                place = np.array(
                    [unknown if t is None else index.get(t, other) for t in texts], dtype=np.int64
                )
                is_known = place != unknown
                parts.append(np.eye(len(categories) + 2)[place])
            present |= is_known
        return (np.concatenate(parts, axis=1) if parts else np.zeros((n, 1))), present

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = self._scaler.arrays()
        for i, column in enumerate(self.columns):
            if column in self._quantiles:
                arrays[f"values/{i}"], arrays[f"places/{i}"] = self._quantiles[column]
        about = {"min_rows": self.min_rows, "columns": self.columns, "categories": self._categories}
        return about | {"report": self.report}, arrays

    def _save_more(self, folder: Path) -> None:
        if self.codes:
            self.codes.save(folder / CODES)

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(min_rows=about["min_rows"])
        embedder.columns = about["columns"]
        embedder._categories = about["categories"]
        embedder._quantiles = {
            column: (arrays[f"values/{i}"], arrays[f"places/{i}"])
            for i, column in enumerate(embedder.columns)
            if column not in embedder._categories
        }
        embedder._scaler = Scaler.from_arrays(arrays)
        embedder.report = about["report"]
        if (folder / CODES).is_dir():
            embedder.codes = CodesEmbedder.load(folder / CODES)
        return embedder


def _count_rows(items: Mapping[str, Any]) -> int:
    for name, values in items.items():
        return values.n if name == CODES else len(values)
    return 0


def _is_numeric(values: np.ndarray) -> bool:
    values = np.asarray(values)
    if values.dtype.kind in "fiub":
        return True
    observed = [v for v in values if v is not None]
    return bool(observed) and all(isinstance(v, (int, float, np.number)) for v in observed)


def _numbers(column: str, values: np.ndarray) -> np.ndarray:
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError):
        # The message of numpy's error would show the value.
        raise ValueError(
            f"column {column!r} was fitted on numbers and holds something else"
        ) from None
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _text(value: Any) -> str | None:
    """A category, or None where it is missing (NaN is the only value unequal to itself)."""
    return None if value is None or value != value or value == "" else str(value)


def _quantiles(numbers: np.ndarray, min_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring values, at least ``min_rows`` each, and where these stand in 0..1."""
    if len(numbers) < min_rows or not len(numbers):
        return np.zeros(1), np.full(1, 0.5)
    groups = np.array_split(np.sort(numbers), min(len(numbers) // min_rows, _QUANTILES))
    means = np.array([group.mean() for group in groups])
    places = np.linspace(0.0, 1.0, len(groups))
    # Values that fill several quantiles stand at the middle of them.
    values, inverse = np.unique(means, return_inverse=True)
    return values, np.bincount(inverse, weights=places) / np.bincount(inverse)
