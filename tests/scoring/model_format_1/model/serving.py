"""The registered model, as MLflow runs it: embedders and M3H together, from raw inputs to
predictions.

MLflow loads this file as code (no pickle) and passes the folders that hold the weights. It needs
m3h_core, pandas and numpy only. Input: a row a sample; the columns of the tabular modality, and
three optional lists, ``events`` [{code, hours, value}], ``notes`` [{hours, text}] and ``images``
[{hours, view, content}], where ``hours`` counts from the prediction time (so it is never above 0)
and ``content`` is the file's bytes; instead, for a modality that was trained on given vectors, the
list ``<modality>_vector``. What is left out is missing, not zero. Output: a row a stay; one column
for a binary or regression task, ``task/class`` for others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from m3h_core import Cohort, FittedModel
from m3h_core.embedders import EventSequences, GivenEmbedder, load_embedder


class HospitalModel(PythonModel):
    """Scores stays from their raw inputs."""

    def load_context(self, context: Any) -> None:
        """Load the model and its own embedders."""
        self.model = FittedModel.load(context.artifacts["model"])
        folders = sorted(Path(context.artifacts["embedders"]).iterdir())
        self.embedders = {
            folder.name: load_embedder(folder) for folder in folders if folder.is_dir()
        }

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predictions [N rows] for the stays in ``model_input`` [N rows]."""
        embedded = {
            name: embedder.transform(_items(name, embedder, model_input))
            for name, embedder in self.embedders.items()
        }
        cohort = Cohort(
            sample_ids=[str(i) for i in range(len(model_input))],
            split=np.full(len(model_input), 3),
            embeddings={name: vectors for name, (vectors, _) in embedded.items()},
            present={name: present for name, (_, present) in embedded.items()},
            labels={},
            labelled={},
        )
        predictions = self.model.predict(cohort)
        columns: dict[str, np.ndarray] = {}
        for task in self.model.tasks:
            values = predictions[task.name]
            if values.ndim == 1:
                columns[task.name] = values
            else:
                names = task.class_names or tuple(str(i) for i in range(values.shape[1]))
                columns |= {f"{task.name}/{label}": values[:, i] for i, label in enumerate(names)}
        return pd.DataFrame(columns, index=model_input.index)


def _items(modality: str, embedder: Any, rows: pd.DataFrame) -> Any:
    if isinstance(embedder, GivenEmbedder):
        vectors = _column(rows, f"{modality}_vector")
        return [
            vector if isinstance(vector, (list, tuple, np.ndarray)) else None for vector in vectors
        ]
    if modality == "tabular":
        return {name: _column(rows, name) for name in embedder.columns}
    if modality == "timeseries":
        events = _lists(rows, "events")
        flat = [(i, event) for i, row in enumerate(events) for event in row]
        return EventSequences(
            sample=np.array([i for i, _ in flat], dtype=np.int64),
            code=np.array([event["code"] for _, event in flat], dtype=object),
            hours=np.array([event["hours"] for _, event in flat], dtype=float),
            value=np.array([event["value"] for _, event in flat], dtype=float),
            n=len(rows),
        )
    if modality == "language":
        return [[(note["hours"], note["text"]) for note in row] for row in _lists(rows, "notes")]
    if modality == "vision":
        return [
            [(image["hours"], image.get("view") or "", image["content"]) for image in row]
            for row in _lists(rows, "images")
        ]
    raise ValueError(f"unknown modality {modality!r}")


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    if name not in rows:
        return np.full(len(rows), None, dtype=object)
    return rows[name].to_numpy()


def _lists(rows: pd.DataFrame, name: str) -> list[list[dict[str, Any]]]:
    if name not in rows:
        return [[] for _ in range(len(rows))]
    return [
        list(value) if isinstance(value, (list, tuple, np.ndarray)) else [] for value in rows[name]
    ]


mlflow.models.set_model(HospitalModel())
