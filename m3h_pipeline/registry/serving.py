"""The registered model, as MLflow runs it: embedders, M3H and its calibration together, from raw
inputs to scores.

MLflow loads this file as code (no pickle) and passes the folders that hold the weights. It needs
m3h_core, LightGBM, pandas and numpy only. Input: a row a sample; the columns of the tabular
modality, and four optional lists, ``codes`` [{code, hours, value}] (a code begins with its kind, as
in ``drug_ordered/insulin``; its value may be missing), ``events`` [{code, hours, value}], ``notes``
[{hours, text}] and ``images`` [{hours, view, content}], where ``hours`` counts from the prediction
time (so it is never above 0) and ``content`` is the file's bytes (over HTTP in base64); instead,
for a modality that was trained on given vectors, the list ``<modality>_vector``. What is left out
is missing, not zero.

Output: a row a sample.

- binary: ``task``, the calibrated probability, and ``task.set``, those of "no" and "yes" that can't
  be ruled out
- multiclass: ``task/class``, the calibrated probabilities, and ``task.set``, the classes that can't
  be ruled out
- regression: ``task``, and ``task.low`` and ``task.high``, the ends of its interval (NaN: no bound
  can be given)
- clustering: ``task/cluster``, the soft assignment, and ``task.distance/cluster``, the distance
  from its centre
- ``coverage``: how often sets and intervals hold the truth; ``lacks``: the modalities that the
  sample has nothing of

A change of the output's columns or of the folders that are read raises `FORMAT`, which is logged
with the model: m3h_pipeline/scoring/scores.py reads the outputs of this format and of those before.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from m3h_core import Calibrator, Cohort, load_model
from m3h_core.data.cohort import SERIES, TIMESERIES
from m3h_core.embedders import EventSequences, GivenEmbedder, load_embedder
from m3h_core.embedders.tabular import CODES


class HospitalModel(PythonModel):
    """Scores samples from their raw inputs."""

    def load_context(self, context: Any) -> None:
        """Load the model, its calibration and its own embedders."""
        self.model = load_model(context.artifacts["model"])
        self.calibrator = Calibrator.load(context.artifacts["calibration"])
        folders = sorted(Path(context.artifacts["embedders"]).iterdir())
        self.embedders = {
            folder.name: load_embedder(folder) for folder in folders if folder.is_dir()
        }

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores [N rows] for the samples in ``model_input`` [N rows]."""
        items: dict[str, Any] = {}
        embedded = {}
        for name, embedder in self.embedders.items():
            source = TIMESERIES if name == SERIES else name
            if source not in items:
                items[source] = _read_items(source, embedder, model_input)
            embedded[name] = embedder.transform(items[source])
        series, _ = embedded.pop(SERIES, (None, None))
        present = {name: is_present for name, (_, is_present) in embedded.items()}
        cohort = Cohort(
            sample_ids=[str(i) for i in range(len(model_input))],
            split=np.full(len(model_input), 3),
            embeddings={name: vectors for name, (vectors, _) in embedded.items()},
            present=present,
            labels={},
            labelled={},
            series=series,
        )
        columns = self._score_columns(cohort) | {
            "coverage": np.full(len(cohort), self.calibrator.coverage)
        }
        columns["lacks"] = [_list_absent(present, i) for i in range(len(cohort))]
        return pd.DataFrame(columns, index=model_input.index)

    def _score_columns(self, cohort: Cohort) -> dict[str, Any]:
        predictions = self.model.predict(cohort)
        scores = self.calibrator.calibrated(predictions)
        sets = self.calibrator.sets(predictions)
        intervals = self.calibrator.intervals(predictions)
        distances = self.model.distances(cohort)
        columns: dict[str, Any] = {}
        for task in self.model.tasks:
            name = task.name
            values = scores[task.name]
            classes = task.class_names or ("no", "yes")
            if values.ndim == 1:
                columns[name] = values
            else:
                columns |= {f"{name}/{label}": values[:, i] for i, label in enumerate(classes)}
            if name in sets:
                columns[f"{name}.set"] = [_list_members(classes, row) for row in sets[name]]
            if name in intervals:
                ends = np.where(np.isfinite(intervals[name]), intervals[name], np.nan)
                columns |= {f"{name}.low": ends[:, 0], f"{name}.high": ends[:, 1]}
            if name in distances:
                columns |= {
                    f"{name}.distance/{label}": distances[name][:, i]
                    for i, label in enumerate(classes)
                }
        return columns


def _list_absent(present: Mapping[str, np.ndarray], sample: int) -> list[str]:
    return [name for name, is_present in present.items() if not is_present[sample]]


def _list_members(classes: Sequence[str], is_member: np.ndarray) -> list[str]:
    return [label for label, is_in in zip(classes, is_member, strict=True) if is_in]


def _read_items(modality: str, embedder: Any, rows: pd.DataFrame) -> Any:
    if isinstance(embedder, GivenEmbedder):
        vectors = _read_column(rows, f"{modality}_vector")
        return [
            vector if isinstance(vector, (list, tuple, np.ndarray)) else None for vector in vectors
        ]
    if modality == "tabular":
        columns = {name: _read_column(rows, name) for name in embedder.columns}
        return columns | {CODES: _read_events(rows, CODES)}
    if modality == TIMESERIES:
        return _read_events(rows, "events")
    if modality == "language":
        return [_read_notes(row) for row in _read_lists(rows, "notes")]
    if modality == "vision":
        return [_read_images(row) for row in _read_lists(rows, "images")]
    raise ValueError(f"unknown modality {modality!r}")


def _read_events(rows: pd.DataFrame, name: str) -> EventSequences:
    flat = [(i, event) for i, row in enumerate(_read_lists(rows, name)) for event in row]
    return EventSequences(
        sample=np.array([i for i, _ in flat], dtype=np.int64),
        code=np.array([event["code"] for _, event in flat], dtype=object),
        hours=np.array([event["hours"] for _, event in flat], dtype=float),
        value=np.array([event.get("value") for _, event in flat], dtype=float),
        n=len(rows),
    )


def _read_notes(notes: list[dict[str, Any]]) -> list[tuple[float, str]]:
    return [(note["hours"], note["text"]) for note in notes]


def _read_images(images: list[dict[str, Any]]) -> list[tuple[float, str, bytes]]:
    return [
        (image["hours"], image.get("view") or "", _decode_file(image["content"]))
        for image in images
    ]


def _decode_file(content: bytes | str) -> bytes:
    """An image's bytes: JSON carries them in base64, and MLflow decodes that in columns, not within
    lists.

    No image file is made of base64's letters alone.
    """
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return content.encode() if isinstance(content, str) else content


def _read_column(rows: pd.DataFrame, name: str) -> np.ndarray:
    if name not in rows:
        return np.full(len(rows), None, dtype=object)
    return rows[name].to_numpy()


def _read_lists(rows: pd.DataFrame, name: str) -> list[list[dict[str, Any]]]:
    if name not in rows:
        return [[] for _ in range(len(rows))]
    return [
        list(value) if isinstance(value, (list, tuple, np.ndarray)) else [] for value in rows[name]
    ]


mlflow.models.set_model(HospitalModel())
