"""AdamW over the parameters of modules; a module says itself which of them decay.

It is PyTorch's fused step, as a function: the class imports PyTorch's compiler, which costs
seconds. And a function leaves the state where models that have stopped can be taken out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from m3h_core.model.network import rows_of

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class Moments(NamedTuple):
    """AdamW's state of one parameter."""

    first: Tensor
    second: Tensor
    step: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Moments:
        """The state before the first step."""
        zeros = torch.zeros_like(value, requires_grad=False)
        return cls(zeros, zeros.clone(), torch.zeros((), device=value.device))


class Optimizer:
    """AdamW's state for all parameters of a module, by name.

    Those that a submodule lists in ``decayed`` are pulled to 0, the weights of layers; biases, the
    attention's maps and cluster centres are not.

    >>> from m3h_core.model.ensemble_linear import EnsembleLinear
    >>> Optimizer(EnsembleLinear(1, 2, 3), learning_rate=0.1, weight_decay=1.0).groups
    {True: ['weight'], False: ['bias']}
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.module = module
        self.parameters = dict(module.named_parameters())
        self.moments = {name: Moments.of(value) for name, value in self.parameters.items()}
        self.groups: dict[bool, list[str]] = {True: [], False: []}
        for prefix, part in module.named_modules():
            decayed = getattr(part, "decayed", ())
            for name, _ in part.named_parameters(recurse=False):
                self.groups[name in decayed].append(f"{prefix}.{name}" if prefix else name)

    def gradients(self) -> list[Tensor]:
        """The gradients that are there."""
        return [value.grad for value in self.parameters.values() if value.grad is not None]

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that are there, which are then dropped."""
        for decays, group in self.groups.items():
            values: list[Tensor] = []
            gradients = []
            moments = []
            for name in group:
                value = self.parameters[name]
                if value.grad is not None:
                    values.append(value)
                    gradients.append(value.grad)
                    moments.append(self.moments[name])
            adamw(
                values,
                gradients,
                [m.first for m in moments],
                [m.second for m in moments],
                [],
                [m.step for m in moments],
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                eps=_EPS,
                lr=self.learning_rate,
                weight_decay=self.weight_decay if decays else 0.0,
            )
        for value in self.parameters.values():
            value.grad = None

    def change(self, name: str, gradient: Tensor) -> Tensor:
        """What Adam would take off a parameter for a gradient, with the second moments that
        training has left.
        """
        moments = self.moments[name]
        second = moments.second / (1 - _BETAS[1] ** moments.step).clamp_min(1e-12)
        return self.learning_rate * gradient / (second.sqrt() + _EPS)

    def forget(self, name: str) -> None:
        """Start a parameter's state anew."""
        self.moments[name] = Moments.of(self.parameters[name])

    def keep(self, places: Sequence[int], models: int) -> None:
        """Go on with some of the models; the module has done so already."""
        self.parameters = dict(self.module.named_parameters())
        for name, moments in self.moments.items():
            rows = rows_of(places, models, moments.first)
            self.moments[name] = Moments(moments.first[rows], moments.second[rows], moments.step)

    def state_dict(self) -> dict[str, Tensor]:
        """The state as tensors, read back by :meth:`load_state_dict`."""
        return {
            f"{part}/{name}": value
            for name, moments in self.moments.items()
            for part, value in moments._asdict().items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state."""
        for name in self.moments:
            self.moments[name] = Moments(*(tensors[f"{part}/{name}"] for part in Moments._fields))
