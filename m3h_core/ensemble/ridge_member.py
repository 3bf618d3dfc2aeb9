"""The ridge as a member of the ensemble: what it says of every row, task by task.

Shapes: n training rows, m validation rows, F inputs, O outputs of one model, P outputs of all tasks
and one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.ensemble.ridge import fit_linear_paths


@dataclass(frozen=True)
class RidgeMember:
    """The linear paths of all tasks, one output under the other; the last of the P rows is 0, for
    what has none.

    ``weights`` [P, F] and ``bias`` [P]; ``train`` [P, n] and ``valid`` [P, m] are their outputs
    without the bias, left out where a training row is labelled. ``rows`` holds the rows of each
    task. A task with too few labels for a path has its best constant.
    """

    weights: Tensor
    bias: Tensor
    train: Tensor
    valid: Tensor
    rows: dict[str, list[int]]

    @classmethod
    def fit(cls, data: TrainingData) -> RidgeMember:
        """Fit the path of every task, on the training rows."""
        x_nF = data.x_train.double().numpy()
        features = x_nF.shape[1]
        labelled = (data.weights > 0).numpy()
        paths = fit_linear_paths(data.tasks, x_nF, data.targets.double().numpy(), labelled)
        weights = []
        bias = []
        train = []
        rows = {}
        count = 0
        for task, path in zip(data.tasks, paths, strict=True):
            if task.problem == "clustering":
                continue
            rows[task.name] = list(range(count, count := count + task.n_outputs))
            weights.append(path.weights_OF if path else np.zeros((task.n_outputs, features)))
            bias.append(path.bias_O if path else data.prior(task))
            train.append(path.train_On if path else np.zeros((task.n_outputs, len(x_nF))))
        ends = (np.zeros((1, features)), np.zeros(1), np.zeros((1, len(x_nF))))
        weights_PF, bias_P, train_Pn = (
            torch.tensor(np.concatenate([*part, end])).to(data.x_train)
            for part, end in zip((weights, bias, train), ends, strict=True)
        )
        return cls(weights_PF, bias_P, train_Pn, weights_PF @ data.x_valid.T, rows)

    def rows_of(self, tasks: Sequence[TaskSpec], outputs: Sequence[int]) -> list[int]:
        """The row of each output O of a model on these tasks."""
        last = len(self.bias) - 1
        return [
            row
            for task, size in zip(tasks, outputs, strict=True)
            for row in (self.rows[task.name] if task.name in self.rows else [last] * size)
        ]
