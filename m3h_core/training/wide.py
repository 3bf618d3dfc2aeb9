"""Models of equal layout as one wide model: what it says of a cohort's rows, and its losses there.

Shapes: G models in parallel, M members of a model, K = G x M networks, T tasks and O outputs of one
model, B rows of a batch, F inputs, n training rows, m validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from m3h_core.model.m3h import M3H
from m3h_core.model.network import Activations, Network, keep_models
from m3h_core.training.objective import Objective
from m3h_core.training.offsets import Offsets
from m3h_core.training.prepared import Prepared

_ROWS_AT_ONCE = 1024


class WideModel:
    """The networks of G models as one, on a device, with the rows that it is trained and judged on.

    ``network`` is a copy: the models stay as they are. Methods take the network that they run, for
    weights other than these: their average, the best so far.
    """

    def __init__(self, prepared: Prepared, models: Sequence[M3H], device: torch.device) -> None:
        data = prepared.data
        self.device = device
        self.config = models[0].config
        self.network = Network.side_by_side([model.network for model in models]).to(device)
        self.objective = Objective(data, models, device)
        self.offsets = None
        if prepared.ridge is not None:
            self.offsets = Offsets(data, prepared.ridge, models, device)
        self.x_train_nF = data.x_train.to(device)
        self.x_valid_mF = data.x_valid.to(device)

    def run(
        self,
        network: Network,
        x_BF: Tensor,
        offset_GOB: Tensor | None = None,
        drop: Sequence[Tensor] = (),
    ) -> Activations:
        """A network on a batch; its outputs are in the configured precision, with the offset."""
        mixed = self.config.precision == "bfloat16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            state = network(x_BF, drop)
        outputs = state.outputs.to(self.config.dtype)
        if self.offsets is not None and offset_GOB is not None:
            outputs = self.offsets.add(outputs, offset_GOB)
        return state._replace(outputs=outputs)

    def train_offset(self, rows: Tensor, lost: Tensor | None = None) -> Tensor | None:
        """The offset [G, O, B] of training rows that have ``lost`` some modalities."""
        return None if self.offsets is None else self.offsets.of_train(rows, lost)

    def train_losses(self, network: Network, rows: Tensor) -> Tensor:
        """Losses [G, T] on some training rows as they are, with nothing dropped."""
        outputs = self.run(network, self.x_train_nF[rows], self.train_offset(rows)).outputs
        losses_GMTB = self.objective.train_losses(outputs, rows)
        weighted = losses_GMTB * self.objective.train_weights(rows)
        return weighted.sum(-1).mean(1) / len(rows)

    @torch.no_grad()
    def valid_losses(self, network: Network) -> Tensor:
        """Losses [G, T] of the members' mean on the validation rows; NaN where none is labelled."""
        total_GT = self.sum_valid_losses(self._valid_outputs(network))
        count = self.objective.valid_labels_GT
        return torch.where(count > 0, total_GT / count.clamp_min(1), math.nan)

    def sum_valid_losses(self, parts: Iterable[tuple[slice, Tensor]]) -> Tensor:
        """Summed losses [G, T] of outputs [G, O, rows] on the validation rows, part by part."""
        total = self.zeros_GT()
        for rows, outputs_GOB in parts:
            total += self.objective.valid_sums(outputs_GOB, rows)
        return total

    def valid_parts(self) -> Iterator[slice]:
        """The validation rows, some at a time."""
        for start in range(0, len(self.x_valid_mF), _ROWS_AT_ONCE):
            yield slice(start, start + _ROWS_AT_ONCE)

    def _valid_outputs(self, network: Network) -> Iterator[tuple[slice, Tensor]]:
        """Outputs [G, O, rows] of the members' mean on the validation rows, part by part."""
        for rows in self.valid_parts():
            offset_GOB = None if self.offsets is None else self.offsets.of_valid(rows)
            outputs = self.run(network, self.x_valid_mF[rows], offset_GOB).outputs
            yield rows, outputs.view(self.objective.models, -1, *outputs.shape[1:]).mean(1)

    def zeros_GT(self) -> Tensor:
        """A number for each task of each model."""
        shape = self.objective.slots_GT.shape
        return torch.zeros(shape, dtype=self.config.dtype, device=self.device)

    def embedded(self, network: Network, task: int) -> Iterator[Tensor]:
        """What a task's head reads of the training rows, part by part [G, rows, M * D]."""
        for part in self.x_train_nF.split(_ROWS_AT_ONCE):
            yield network.read(self.run(network, part), task)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the models only."""
        keep_models(self.network, places, self.objective.models)
        self.objective.keep(places)
        if self.offsets is not None:
            self.offsets.keep(places)
