"""The layers that all tasks share.

Shapes: G models in parallel, M members of a model, K = G x M networks, B batch, F inputs, H units
of a layer (the first has as many as the tasks' embeddings together, where there is no hidden
layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from m3h_core.config import FitConfig
from m3h_core.model.ensemble_linear import EnsembleLinear
from m3h_core.model.layout import Layout


class MemberScale(nn.Module):
    """How each member of a model reads the units of the layer that it shares: ``scale`` [K, H]."""

    def __init__(self, networks: int, units: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(networks, units, dtype=dtype))

    def draw_(self, generator: torch.Generator) -> None:
        """Draw a sign for each unit: so the members start from different networks."""
        signs = torch.randint(0, 2, self.scale.shape, generator=generator) * 2 - 1
        with torch.no_grad():
            self.scale.copy_(signs)

    def forward(self, h_GHB: Tensor) -> Tensor:
        """The units [K, H, B] as each member reads them."""
        models, units, batch = h_GHB.shape
        scale = self.scale.view(models, -1, units, 1)
        return (h_GHB.unsqueeze(1) * scale).view(-1, units, batch)


class Trunk(nn.Module):
    """A first layer that the members of a model share, and further layers of their own.

    Nearly all weights of a wide input lie in the first layer; its members differ by the sign with
    which they read each of its units.
    """

    def __init__(self, layout: Layout, config: FitConfig, models: int) -> None:
        super().__init__()
        networks = models * config.members
        self.first = EnsembleLinear(models, layout.n_inputs, layout.first, config.dtype)
        self.members = None
        if config.members > 1:
            self.members = MemberScale(networks, layout.first, config.dtype)
        self.layers = nn.ModuleList(
            EnsembleLinear(networks, n_inputs, n_outputs, config.dtype)
            for n_inputs, n_outputs in pairwise(layout.hidden)
        )

    def draw_(self, generator: torch.Generator) -> None:
        """Draw the weights and the members' signs."""
        self.first.draw_(generator)
        if self.members is not None:
            self.members.draw_(generator)
        for layer in self.layers:
            assert isinstance(layer, EnsembleLinear)
            layer.draw_(generator)

    def forward(self, entering_GHB: Tensor, drop: Sequence[Tensor] = ()) -> Tensor:
        """The last layer's units [K, H, B], from what the first layer has computed."""
        h = relu(entering_GHB)
        if self.members is not None:
            h = self.members(h)
        for i, layer in enumerate(self.layers):
            h = layer(drop_units(h, drop, i)).relu()
        return h


def drop_units(h_KHB: Tensor, drop: Sequence[Tensor], layer: int) -> Tensor:
    """The units of a layer under its mask [M, H, B], which is already scaled; all where there is
    none.
    """
    if not drop:
        return h_KHB
    mask = drop[layer]
    return (h_KHB.view(-1, *mask.shape) * mask).view(h_KHB.shape)
