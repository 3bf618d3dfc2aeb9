"""Several processes that train one model: each reads its part of every batch, and all take the same
step.

They are started by PyTorch's own launcher (torchrun) and joined by ``torch.distributed``; one that
trains alone is a group of one, for which nothing here costs anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup:
    """The processes of the default group where ``distributed``, else this one alone."""

    def __init__(self, distributed: bool = False) -> None:
        self.size = dist.get_world_size() if distributed else 1
        self.rank = dist.get_rank() if distributed else 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that reports and writes."""
        return self.rank == 0

    def own_slice(self, n: int) -> slice:
        """This process's rows of a batch of ``n``; the parts differ by one row at most.

        >>> ProcessGroup().own_slice(10)
        slice(0, 10, None)
        """
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    @torch.no_grad()
    def sum_in_place(self, tensors: Sequence[Tensor], stop: bool) -> bool:
        """Put the sum over all processes into each tensor, in one message; returns whether any was
        asked to ``stop``.

        >>> ProcessGroup().sum_in_place([torch.ones(2)], stop=False)
        False
        """
        if self.size == 1:
            return stop
        flag = torch.full((1,), float(stop), dtype=tensors[0].dtype, device=tensors[0].device)
        flat = torch.cat([tensor.flatten() for tensor in (*tensors, flag)])
        dist.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : (start := start + tensor.numel())].view_as(tensor))
        return bool(flat[-1] > 0)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process's values: what is decided by them is decided alike."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor
