"""The last step of each task: linear outputs, or cluster centres.

Shapes: G models in parallel, M members of a model, K = G x M networks, T tasks, O outputs of all
tasks side by side, D width of a task's embedding, B batch, c clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.losses import soft_assignment
from m3h_core.model.ensemble_linear import draw_normal_
from m3h_core.model.layout import Layout


class TaskHeads(nn.Module):
    """A linear head for each output: ``weight`` [K, O, D] and ``bias`` [K, O].

    A clustering task has centres beside it [G, c, M * D], in the embeddings of a model's members
    side by side; its linear outputs reconstruct components of the inputs. ``owner`` [O] is the task
    of each output.
    """

    decayed: ClassVar[tuple[str, ...]] = ("weight",)
    owner: Tensor

    def __init__(
        self, layout: Layout, config: FitConfig, clusters: Mapping[int, int], models: int
    ) -> None:
        super().__init__()
        networks = models * config.members
        shape = (networks, layout.n_outputs, layout.width)
        self.weight = nn.Parameter(torch.empty(shape, dtype=config.dtype))
        self.bias = nn.Parameter(torch.zeros(shape[:2], dtype=config.dtype))
        self.register_buffer("owner", torch.tensor(layout.owners), persistent=False)
        width = config.members * layout.width
        self.centres = nn.ParameterDict(
            {
                str(task): torch.empty(models, count, width, dtype=config.dtype)
                for task, count in clusters.items()
            }
        )

    @property
    def clusters(self) -> dict[int, int]:
        """Number of clusters of each clustering task, by its place."""
        return {int(task): centres.shape[1] for task, centres in self.centres.items()}

    def draw_(self, generator: torch.Generator, gain: float = 1.0) -> None:
        """Draw the weights; those of a gain of 0 have nothing to add at the start."""
        draw_normal_(self.weight, generator, fan_in=self.weight.shape[-1], gain=gain)

    def draw_centres_(self, generator: torch.Generator) -> None:
        """Draw centres, for a model that has not been trained."""
        for centres in self.centres.values():
            draw_normal_(centres, generator, fan_in=1)

    def assign(self, z_GBD: Tensor, task: int) -> Tensor:
        """Soft assignment [G, B, c] of a clustering task's embeddings [G, B, M * D]."""
        return soft_assignment(z_GBD, self.centres[str(task)])
