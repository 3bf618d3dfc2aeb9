"""Vectors that were computed elsewhere: brought to one scale, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler


class GivenEmbedder(Embedder):
    """N vectors [C], or None where a sample has none, in the place of one modality's encoder.

    Values that are not finite are missing and become the mean; columns that did not vary in the
    fitted rows, or were known in fewer than ``min_rows``, are left out.

    >>> embedder = GivenEmbedder("vision").fit([[0.0, 5.0], [2.0, 5.0], None])
    >>> vectors, present = embedder.transform([[1.0, 5.0], None])
    >>> vectors.tolist(), present.tolist()
    ([[0.0], [0.0]], [True, False])
    """

    _scaler: Scaler

    def __init__(self, modality: str, min_rows: int = 1) -> None:
        super().__init__()
        self.modality = modality
        self.min_rows = min_rows
        self.raw_width = 0

    def fit(self, items: Sequence[Any], on_progress: Progress | None = None) -> Self:
        """Learn the length of the vectors, and the scale of each number."""
        vectors = [np.asarray(item, dtype=np.float64) for item in items if item is not None]
        # Without a vector there is nothing to learn, and one column that is always 0.
        self.raw_width = len(vectors[0]) if vectors else 1
        raw, _ = self._raw(items)
        self._scaler = Scaler.fit(raw, min_rows=self.min_rows)
        self.width = len(self._scaler.keep)
        self.report = {
            "vectors": "given, no encoder",
            "length": self.raw_width,
            "fitted on": len(raw),
        }
        return self

    def transform(
        self, items: Sequence[Any], on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scale; raises ValueError where a vector has another length than the fitted ones."""
        self._check_fitted()
        raw, present = self._raw(items)
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        vectors[present] = self._scaler.transform(raw)
        if on_progress:
            on_progress(len(items), len(items))
        return vectors, present

    def _raw(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors that are there [n, C], missing values as NaN, and present [N]."""
        present = np.array([item is not None for item in items], dtype=bool)
        vectors = [np.asarray(item, dtype=np.float64) for item in items if item is not None]
        if wrong := {vector.shape for vector in vectors} - {(self.raw_width,)}:
            raise ValueError(
                f"{self.modality}: a vector has the shape {wrong.pop()}, expected "
                f"({self.raw_width},)"
            )
        raw = np.array(vectors) if vectors else np.zeros((0, self.raw_width))
        return np.where(np.isfinite(raw), raw, np.nan), present

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"raw_width": self.raw_width, "report": self.report}, self._scaler.arrays()

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(about["modality"])
        embedder.raw_width = about["raw_width"]
        embedder.report = about["report"]
        embedder._scaler = Scaler.from_arrays(arrays)
        return embedder
