"""What of a model is fitted in closed form and not trained: its linear path, and what its tasks
borrow from each other.

Shapes: B batch, F inputs, O outputs of all tasks side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearPath(nn.Module):
    """A linear map from the inputs to each output: the buffer ``weight`` [O, F], at first 0.

    Its bias is in the network's heads, which start from it.
    """

    weight: Tensor

    def __init__(self, n_outputs: int, n_inputs: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_outputs, n_inputs, dtype=dtype))

    def forward(self, x_BF: Tensor) -> Tensor:
        """Outputs [O, B]."""
        return self.weight @ x_BF.T


class Loans(nn.Module):
    """What each output borrows from others and from the inputs: at first nothing.

    >>> Loans(n_outputs=2, n_inputs=3)(torch.ones(2, 1), torch.zeros(1, 3)).flatten()
    tensor([1., 1.])
    """

    outputs: Tensor
    inputs: Tensor
    bias: Tensor

    def __init__(self, n_outputs: int, n_inputs: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("outputs", torch.eye(n_outputs, dtype=dtype))
        self.register_buffer("inputs", torch.zeros(n_outputs, n_inputs, dtype=dtype))
        self.register_buffer("bias", torch.zeros(n_outputs, dtype=dtype))

    def forward(self, y_OB: Tensor, x_BF: Tensor) -> Tensor:
        """The outputs [O, B] after borrowing."""
        return self.outputs @ y_OB + self.inputs @ x_BF.T + self.bias.unsqueeze(1)
