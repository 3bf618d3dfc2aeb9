"""A trunk that reads a series: a gated recurrent unit over its time steps, which all tasks share.

Shapes: G models in parallel, M members of a model, K = G x M networks, B batch, L time steps, C
channels of a step, S inputs that belong to no step, H units of the state, F inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.model.ensemble_linear import EnsembleLinear
from m3h_core.model.layout import Layout
from m3h_core.model.trunk import MemberScale


class StepInputs(nn.Module):
    """The first layer: each step's channels and the inputs that belong to no step, as H units.

    ``weight`` [G, H, C], ``statics.weight`` [G, H, S] and ``statics.bias`` [G, H].
    """

    decayed: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, layout: Layout, config: FitConfig, models: int, units: int) -> None:
        super().__init__()
        assert layout.series is not None
        self.series = layout.series
        channels = layout.series.channels
        self.weight = nn.Parameter(torch.empty(models, units, channels, dtype=config.dtype))
        n_static = layout.n_inputs - layout.series.width
        self.statics = EnsembleLinear(models, n_static, units, config.dtype)

    def draw_(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        draw_uniform_(self.weight, generator, self.weight.shape[-1])
        draw_uniform_(self.statics.weight, generator, self.statics.weight.shape[-1])

    def forward(self, x_BF: Tensor) -> Tensor:
        """Units [G, H, L * B] of all steps, the rows of a step side by side."""
        models, units, channels = self.weight.shape
        start = self.series.start
        end = start + self.series.width
        steps_CLB = x_BF[:, start:end].view(len(x_BF), self.series.steps, channels).permute(2, 1, 0)
        of_steps = self.weight.reshape(-1, channels) @ steps_CLB.reshape(channels, -1)
        of_steps = of_steps.view(models, units, self.series.steps, -1)
        static_BS = torch.cat([x_BF[:, :start], x_BF[:, end:]], dim=1)
        return (of_steps + self.statics(static_BS).unsqueeze(2)).flatten(2)


class RecurrentTrunk(nn.Module):
    """Step inputs, a gated recurrent unit (Cho et al. 2014), and its last state and the mean of all
    states, side by side, as the units that tasks read.

    The members of a model share it all, and differ by the sign with which they read each unit.
    """

    decayed: ClassVar[tuple[str, ...]] = ("weight_input", "weight_state")

    def __init__(self, layout: Layout, config: FitConfig, models: int) -> None:
        super().__init__()
        units = layout.first // 2
        self.units = units
        self.first = StepInputs(layout, config, models, units)
        gates = (models, 3 * units, units)
        self.weight_input = nn.Parameter(torch.empty(gates, dtype=config.dtype))
        self.weight_state = nn.Parameter(torch.empty(gates, dtype=config.dtype))
        self.bias_input = nn.Parameter(torch.zeros(gates[:2], dtype=config.dtype))
        self.bias_state = nn.Parameter(torch.zeros(gates[:2], dtype=config.dtype))
        self.members = None
        if config.members > 1:
            networks = models * config.members
            self.members = MemberScale(networks, layout.first, config.dtype)

    def draw_(self, generator: torch.Generator) -> None:
        """Draw the weights and the members' signs."""
        self.first.draw_(generator)
        for parameter in (self.weight_input, self.weight_state, self.bias_input, self.bias_state):
            draw_uniform_(parameter, generator, self.units)
        if self.members is not None:
            self.members.draw_(generator)

    def forward(self, entering_GHn: Tensor, drop: Sequence[Tensor] = ()) -> Tensor:
        """The units [K, 2 H, B], from what the first layer has computed [G, H, L * B]."""
        models, units, _ = entering_GHn.shape
        steps = self.first.series.steps
        h = entering_GHn.relu()
        if drop:
            h = (h.view(models, units, steps, -1) * drop[0][:, :, None]).flatten(2)
        gates = torch.baddbmm(self.bias_input.unsqueeze(-1), self.weight_input, h)
        of_step = gates.view(models, 3 * units, steps, -1).unbind(2)
        bias = self.bias_state.unsqueeze(-1)
        state = h.new_zeros(models, units, of_step[0].shape[-1])
        states = []
        for gate in of_step:
            own = torch.baddbmm(bias, self.weight_state, state)
            both = torch.sigmoid(gate[:, : 2 * units] + own[:, : 2 * units])
            reset, update = both.chunk(2, dim=1)
            new = torch.tanh(gate[:, 2 * units :] + reset * own[:, 2 * units :])
            state = torch.lerp(new, state, update)
            states.append(state)
        mean = torch.stack(states).mean(0)
        units_GHB = torch.cat([state, mean], dim=1)
        return units_GHB if self.members is None else self.members(units_GHB)


def draw_uniform_(parameter: Tensor, generator: torch.Generator, fan_in: int) -> None:
    """Fill with uniform draws within 1 / sqrt(fan_in), as PyTorch does for such layers."""
    draws = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        parameter.copy_((2 * draws - 1) / fan_in**0.5)
