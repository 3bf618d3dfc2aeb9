"""What models are to learn: targets, weights, and the losses of outputs against them.

Shapes: G models in parallel, M members of a model, K = G x M networks, T tasks and O outputs of one
model, B rows of a batch, n training rows, m validation rows, C components. A "table" has a row for
each task of the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.losses import multiclass_loss, scalar_loss
from m3h_core.model.m3h import M3H

Rows = Tensor | slice


class Objective:
    """The losses of G models of equal layout, each on its own tasks.

    ``categorical_GT`` says which of them are classified.
    """

    def __init__(self, data: TrainingData, models: Sequence[M3H], device: torch.device) -> None:
        at = {task.name: i for i, task in enumerate(data.tasks)}

        def of_tasks(value: Callable[[TaskSpec], Any]) -> Tensor:
            """A value of each model's tasks [G, T]."""
            return torch.tensor([list(map(value, model.tasks)) for model in models], device=device)

        self.layout = models[0].layout
        self.slots_GT = of_tasks(lambda task: at[task.name])
        self.regression_GT = of_tasks(lambda task: task.problem == "regression")
        self.categorical_GT = of_tasks(lambda task: task.problem in ("binary", "multiclass"))
        self.targets = data.targets.to(device)
        self.weights = data.weights.to(device)
        self.components_Cn = data.components.to(device)
        self.valid_targets = data.valid_targets.to(device)
        self.valid_mask = data.valid_mask.to(device)
        self.valid_components_Cm = data.valid_components.to(device)

    @property
    def models(self) -> int:
        """The number G of models."""
        return len(self.slots_GT)

    @property
    def valid_labels_GT(self) -> Tensor:
        """The number of labelled validation rows of each task."""
        return self.valid_mask.sum(1)[self.slots_GT]

    def train_losses(self, outputs_KOB: Tensor, rows: Rows) -> Tensor:
        """Losses [G, M, T, B] on some training rows, not yet weighted."""
        return self._losses(outputs_KOB, self.targets[:, rows], self.components_Cn[:, rows])

    def train_weights(self, rows: Rows) -> Tensor:
        """Weights [G, 1, T, B] of some training rows; 0 where a task has no label."""
        return self._of_models(self.weights[:, rows])

    def valid_sums(self, outputs_KOB: Tensor, rows: Rows) -> Tensor:
        """Summed losses [G, T] on some validation rows, mean over the members."""
        losses = self._losses(
            outputs_KOB, self.valid_targets[:, rows], self.valid_components_Cm[:, rows]
        )
        return (losses * self._of_models(self.valid_mask[:, rows])).sum(-1).mean(1)

    def overall(self, valid_GT: Tensor) -> list[float | None]:
        """The loss [G] over all validation labels together; None without one, NaN where training
        has diverged.

        A task counts as it has labels, so that one with a handful can't stop the others.
        """
        labels_GT = self.valid_labels_GT
        labels_G = labels_GT.sum(1)
        loss_G = torch.where(labels_GT > 0, valid_GT * labels_GT, 0).sum(1) / labels_G
        return [
            loss if labels else None
            for loss, labels in zip(loss_G.tolist(), labels_G.tolist(), strict=True)
        ]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the models only."""
        self.slots_GT = self.slots_GT[list(places)]
        self.regression_GT = self.regression_GT[list(places)]
        self.categorical_GT = self.categorical_GT[list(places)]

    def _of_models(self, table: Tensor) -> Tensor:
        """The models' own rows [G, 1, T, B] of a table [tasks, B]."""
        return table[self.slots_GT.flatten()].view(
            self.models, 1, self.layout.n_tasks, table.shape[1]
        )

    def _losses(self, outputs_KOB: Tensor, table: Tensor, components_CB: Tensor) -> Tensor:
        """Losses [G, M, T, B], not yet masked, from outputs and the targets [tasks, B] of all
        tasks.
        """
        outputs = outputs_KOB.view(self.models, -1, *outputs_KOB.shape[1:])
        targets = self._of_models(table)
        if self.layout.n_outputs == self.layout.n_tasks and not self.layout.clustering:
            return scalar_loss(outputs, targets, self.regression_GT[:, None, :, None])
        losses = []
        for i, part in enumerate(self.layout.slices):
            task_outputs = outputs[:, :, part]
            target = targets[:, :, i]
            if i in self.layout.clustering:
                losses.append((task_outputs - components_CB).square().mean(2))
            elif part.stop - part.start > 1:
                losses.append(multiclass_loss(task_outputs, target))
            else:
                regression = self.regression_GT[:, None, i, None]
                losses.append(scalar_loss(task_outputs[:, :, 0], target, regression))
        return torch.stack(losses, dim=2)
