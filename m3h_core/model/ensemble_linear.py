"""Linear layers of many networks at once.

Shapes: K networks in parallel, B batch, I inputs and O outputs of a layer. The batch lies last, so
that every product runs along contiguous memory.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn


def draw_normal_(
    parameter: Tensor, generator: torch.Generator, fan_in: int, gain: float = 1.0
) -> None:
    """Fill with normal draws of the standard deviation ``gain / sqrt(fan_in)``, the same ones in
    every precision.
    """
    draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        parameter.copy_(draws * (gain / math.sqrt(fan_in)))


class EnsembleLinear(nn.Module):
    """K linear layers of one size: ``weight`` [K, O, I], ``bias`` [K, O], which starts at 0.

    Weights are not drawn before :meth:`draw_`: who builds a network draws all of it in one order.

    >>> layer = EnsembleLinear(networks=3, n_inputs=4, n_outputs=2)
    >>> layer.draw_(torch.Generator().manual_seed(0))
    >>> x_BI = torch.ones(5, 4)
    >>> layer(x_BI).shape, torch.allclose(layer(x_BI), layer(x_BI.T.expand(3, 4, 5)))
    (torch.Size([3, 2, 5]), True)
    """

    # What weight decay pulls to 0: see training/optimizer.py.
    decayed: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self, networks: int, n_inputs: int, n_outputs: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(networks, n_outputs, n_inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(networks, n_outputs, dtype=dtype))

    def draw_(self, generator: torch.Generator, gain: float = math.sqrt(2)) -> None:
        """Draw the weights; the gain is that of a layer before a rectifier."""
        draw_normal_(self.weight, generator, fan_in=self.weight.shape[-1], gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [K, O, B] of each network's own input [K, I, B], or of one that all read [B,
        I].
        """
        if x.dim() == 3:
            return torch.baddbmm(self.bias.unsqueeze(-1), self.weight, x)
        networks, outputs, _ = self.weight.shape
        product = self.weight.reshape(networks * outputs, -1) @ x.T
        return product.view(networks, outputs, len(x)) + self.bias.unsqueeze(-1)
