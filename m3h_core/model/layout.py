"""The sizes of a network, and the parameters that it starts from.

Shapes: H trunk, T tasks, D width of a task's embedding, O outputs of all tasks side by side, K
networks in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.data.tasks import TaskSpec


@dataclass(frozen=True)
class Layout:
    """The sizes of one network; networks of equal layout can run side by side."""

    n_inputs: int
    hidden: tuple[int, ...]
    width: int
    outputs: tuple[int, ...]
    clustering: tuple[int, ...]

    @classmethod
    def of(cls, n_inputs: int, tasks: Sequence[TaskSpec], config: FitConfig) -> Layout:
        """The layout of a network for these tasks.

        A clustering task's head reconstructs leading components of the inputs (what shapes its
        embedding).
        """
        outputs = tuple(
            min(config.cluster_components, n_inputs)
            if task.problem == "clustering"
            else task.n_outputs
            for task in tasks
        )
        clustering = tuple(i for i, task in enumerate(tasks) if task.problem == "clustering")
        return cls(n_inputs, config.hidden, config.width, outputs, clustering)

    @property
    def n_tasks(self) -> int:
        return len(self.outputs)

    @property
    def n_outputs(self) -> int:
        return sum(self.outputs)

    @property
    def slices(self) -> list[slice]:
        """Where each task's outputs lie among the O."""
        ends = [sum(self.outputs[: i + 1]) for i in range(self.n_tasks)]
        return [slice(end - size, end) for end, size in zip(ends, self.outputs, strict=True)]

    @property
    def first(self) -> int:
        """Width of the first layer."""
        return self.hidden[0] if self.hidden else self.n_tasks * self.width


def draw_parameters(layout: Layout, config: FitConfig) -> dict[str, Tensor]:
    """Parameters of ``config.members`` networks, each with a leading dimension, drawn from
    ``config.seed``.

    Members share the first layer, where nearly all weights of a wide input lie, and differ by the
    sign with which they read each of its units, by their further layers and by dropout. What the
    tasks share is drawn first: models of one seed start from the same trunk whatever their tasks.
    """
    generator = torch.Generator().manual_seed(config.seed)
    k = config.members
    d = layout.width
    t = layout.n_tasks
    o = layout.n_outputs

    def normal(*shape: int, fan_in: int, gain: float = 1.0, networks: int = k) -> Tensor:
        draws = torch.randn(networks, *shape, generator=generator, dtype=torch.float64)
        return (draws * (gain / math.sqrt(fan_in))).to(config.dtype)

    sizes = layout.hidden
    parameters = {}
    first = normal(
        layout.first, layout.n_inputs, fan_in=layout.n_inputs, gain=math.sqrt(2), networks=1
    )
    parameters["first_weight"] = first
    parameters["first_bias"] = torch.zeros(1, layout.first, dtype=config.dtype)
    if k > 1:
        signs = torch.randint(0, 2, (k, layout.first), generator=generator) * 2 - 1
        parameters["member_scale"] = signs.to(config.dtype)
    for i in range(1, len(sizes)):
        parameters[f"trunk_{i}_weight"] = normal(
            sizes[i], sizes[i - 1], fan_in=sizes[i - 1], gain=math.sqrt(2)
        )
        parameters[f"trunk_{i}_bias"] = torch.zeros(k, sizes[i], dtype=config.dtype)
    for name in ("query", "key", "value"):
        parameters[f"w_{name}"] = normal(d, d, fan_in=d)
    if sizes:
        parameters["map_weight"] = normal(t, d, sizes[-1], fan_in=sizes[-1], gain=math.sqrt(2))
        parameters["map_bias"] = torch.zeros(k, t, d, dtype=config.dtype)
    parameters["w_task"] = normal(t, d, fan_in=1)
    # Beside a linear path the network starts with nothing to add.
    parameters["head_weight"] = normal(o, d, fan_in=d, gain=0.0 if config.linear_path else 1.0)
    parameters["head_bias"] = torch.zeros(k, o, dtype=config.dtype)
    return parameters
