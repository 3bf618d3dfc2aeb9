"""A modality that nobody had when the model was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress


class AbsentEmbedder(Embedder):
    """Vectors of zeros, and no sample present: it stands where an encoder would have had nothing to
    learn from.

    ``width`` is that of the encoder, so that the model is the same one. Items that come later count
    as missing too: the model has learned nothing of them.

    >>> embedder = AbsentEmbedder("language", width=2).fit([[], []])
    >>> vectors, present = embedder.transform([[(-1.0, "Chest clear.")], []])
    >>> vectors.tolist(), present.tolist()
    ([[0.0, 0.0], [0.0, 0.0]], [False, False])
    """

    def __init__(self, modality: str, width: int) -> None:
        super().__init__()
        self.modality = modality
        self.width = width
        self.report = {"encoder": "none: nobody has this modality", "fitted on": 0}

    def fit(self, items: Any, on_progress: Progress | None = None) -> Self:
        """Learn nothing."""
        return self

    def transform(
        self, items: Any, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Zeros [N, F], and present False [N]."""
        n_samples = items.n if hasattr(items, "n") else len(items)
        return np.zeros((n_samples, self.width), dtype=np.float32), np.zeros(n_samples, dtype=bool)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"report": self.report}, {}

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        return cls(about["modality"], about["width"])
