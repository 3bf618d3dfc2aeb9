"""The fitted model: predicts, scores itself, is saved and loaded.

Shapes: N samples, C classes or clusters, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.inputs import cohort_tensors
from m3h_core.data.tasks import TaskSpec
from m3h_core.files import read_saved_json, read_tensors, write_json, write_tensors
from m3h_core.metrics import Score, evaluate_predictions
from m3h_core.model.formats import read_format_2
from m3h_core.model.m3h import M3H

_FORMAT = 3
_READABLE = (2, _FORMAT)
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class FittedModel:
    """A trained model: predicts, scores itself, and travels as safetensors and JSON.

    ``units`` holds {regression task: (mean, standard deviation)} of the training labels.
    """

    is_rowwise: ClassVar[bool] = False
    model: M3H
    units: Mapping[str, tuple[float, float]]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks; a clustering task has the number of clusters that was chosen."""
        return self.model.tasks

    @property
    def config(self) -> FitConfig:
        """The configuration it was fitted with."""
        return self.model.config

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Predictions of every row of a cohort, float64 {task: [N], or [N, C] for multiclass and
        clustering}.

        Probabilities for binary and multiclass, the task's unit for regression, soft assignments
        for clustering. Labels are not read; a modality that the cohort lacks counts as missing.
        Raises ValueError for a modality that the model does not know, or of another width.
        """
        parts = []
        with torch.inference_mode():
            for start in range(0, max(len(cohort), 1), _ROWS_AT_ONCE):
                rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(cohort)))
                parts.append(self.model(*cohort_tensors(cohort, rows)))
        outputs = {task.name: _join(parts, task.name) for task in self.tasks}
        return {
            task.name: np.ascontiguousarray(self._to_prediction(task, outputs[task.name]))
            for task in self.tasks
        }

    def distances(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """How far every row lies from the centres of each clustering task, float64 {task: [N, C]}.

        In the task's own embedding, so that only distances of one model can be compared. Raises as
        :meth:`predict`.
        """
        if not self.model.layout.clustering:
            return {}
        parts = []
        with torch.inference_mode():
            for start in range(0, max(len(cohort), 1), _ROWS_AT_ONCE):
                rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(cohort)))
                parts.append(self.model.distances(*cohort_tensors(cohort, rows)))
        return {name: _join(parts, name).numpy() for name in parts[0]}

    def evaluate(
        self, cohort: Cohort, split: int = TEST, n_bootstrap: int = 1000
    ) -> dict[str, Score]:
        """The score of each task on one split; see :func:`m3h_core.evaluate_predictions`."""
        return evaluate_predictions(
            cohort, self.tasks, self.predict(cohort), split=split, n_bootstrap=n_bootstrap
        )

    def attention(self, cohort: Cohort, rows: np.ndarray | None = None) -> np.ndarray:
        """Attention weights [T, T], averaged over rows of a cohort; row t is what task t takes from
        each.
        """
        rows = np.arange(len(cohort)) if rows is None else rows
        total = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = cohort_tensors(cohort, rows[start : start + _ROWS_AT_ONCE])
                total += self.model.attention(*part).double().sum(0)
        return (total / max(len(rows), 1)).numpy()

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` into an existing or new folder."""
        folder = Path(folder)
        write_tensors(folder / "model.safetensors", self.model.state_dict(), {"format": _FORMAT})
        about = {
            "format": _FORMAT,
            "modalities": list(self.model.modalities.items()),
            "tasks": [task.to_dict() for task in self.tasks],
            "config": self.config.to_dict(),
            "units": {name: list(unit) for name, unit in self.units.items()},
        }
        write_json(folder / "model.json", about)

    @classmethod
    def load(cls, folder: str | Path) -> FittedModel:
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder)
        about = read_saved_json(folder / "model.json", "network", _READABLE)
        tasks = [TaskSpec.from_dict(record) for record in about["tasks"]]
        model = M3H(dict(about["modalities"]), tasks, FitConfig.from_dict(about["config"]))
        tensors, _ = read_tensors(folder / "model.safetensors")
        model.load_state_dict(tensors if about["format"] == _FORMAT else read_format_2(tensors))
        return cls(
            model.eval().requires_grad_(False),
            {name: (m, s) for name, (m, s) in about["units"].items()},
        )

    def _to_prediction(self, task: TaskSpec, output: Tensor) -> np.ndarray:
        if task.problem == "binary":
            output = torch.sigmoid(output)
        elif task.problem == "multiclass":
            output = torch.softmax(output, dim=1)
        elif task.problem == "regression":
            mean, scale = self.units[task.name]
            output = output * scale + mean
        return output.numpy()


def _join(parts: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.cat([part[name] for part in parts]).double()
