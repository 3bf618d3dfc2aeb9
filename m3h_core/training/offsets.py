"""What the networks start from: the ridge's outputs, which some members of a model only add to.

Shapes: G models in parallel, M members of a model, K = G x M networks, O outputs of one model, P
outputs of the ridge, n training rows, B batch, modalities [Q].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3h_core.data.training_data import TrainingData
from m3h_core.ensemble.ridge_member import RidgeMember
from m3h_core.model.m3h import M3H


class Offsets:
    """The ridge's outputs for G models of equal layout.

    Every other member, from the first, learns what the ridge leaves over, the rest learn all: they
    err in different ways.
    """

    def __init__(
        self, data: TrainingData, ridge: RidgeMember, models: Sequence[M3H], device: torch.device
    ) -> None:
        config = models[0].config
        rows = [ridge.rows_of(model.tasks, model.layout.outputs) for model in models]
        used, slots = torch.tensor(rows).unique(return_inverse=True)
        self.slots_GO = slots.to(device)
        self.bias_GO = ridge.bias[used].to(device)[self.slots_GO]
        self.train_Pn = ridge.train[used].to(device)
        self.valid_Pm = ridge.valid[used].to(device)
        self.shares_QPn = None
        if config.modality_dropout and len(data.modalities) > 1:
            shares = _shares_of_modalities(data, ridge.weights[used])
            self.shares_QPn = shares.to(device)
        adding = torch.tensor([1.0 - i % 2 for i in range(config.members)], device=device)
        self.members = adding.to(config.dtype).view(1, -1, 1, 1)

    @property
    def share(self) -> float:
        """The share of a model's members that start from the ridge."""
        return float(self.members.mean())

    def of_train(self, rows: Tensor, lost_BQ: Tensor | None) -> Tensor:
        """The ridge [G, O, B] on training rows that have lost some modalities."""
        linear_PB = self.train_Pn[:, rows]
        if lost_BQ is not None and self.shares_QPn is not None:
            linear_PB = linear_PB - torch.einsum("mpb,bm->pb", self.shares_QPn[:, :, rows], lost_BQ)
        return linear_PB[self.slots_GO]

    def of_valid(self, rows: slice) -> Tensor:
        """The ridge [G, O, B] on some validation rows."""
        return self.valid_Pm[:, rows][self.slots_GO]

    def add(self, outputs_KOB: Tensor, offset_GOB: Tensor) -> Tensor:
        """Outputs [K, O, B] with the offset of those members that have one."""
        wide = outputs_KOB.view(len(self.slots_GO), -1, *outputs_KOB.shape[1:])
        return (wide + offset_GOB.unsqueeze(1) * self.members).view(outputs_KOB.shape)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the models only."""
        self.slots_GO = self.slots_GO[list(places)]


def _shares_of_modalities(data: TrainingData, weights_PF: Tensor) -> Tensor:
    """The share [Q, P, n] that each modality has in the outputs of the training rows: what is lost
    where training takes the modality away.
    """
    shares = []
    start = 0
    widths = data.modalities.values()
    for flag, width in enumerate(widths, start=sum(widths)):
        part = slice(start, start := start + width)
        shares.append(
            weights_PF[:, part] @ data.x_train[:, part].T - weights_PF[:, flag : flag + 1]
        )
    return torch.stack(shares)
