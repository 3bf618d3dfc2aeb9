"""The network: inputs -> shared trunk -> a map for each task -> cross-task attention -> a head for
each task.

Shapes: G models in parallel, M members of a model, K = G x M networks, B batch, F inputs, H units
of the trunk, T tasks, S tasks as sources (the same tasks), D width of a task's embedding, O outputs
of all tasks side by side.

It is written for K networks of equal shape at once, with the batch as the last dimension:
activations are [K, features, B]. One matrix product then serves the first layers of all models
(they read the same input) and every later product is one batched call, whether K is the few members
of one model or hundreds of models in a bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.model.attention import CrossTaskAttention
from m3h_core.model.ensemble_linear import EnsembleLinear
from m3h_core.model.heads import TaskHeads
from m3h_core.model.layout import Layout
from m3h_core.model.recurrent_trunk import RecurrentTrunk
from m3h_core.model.trunk import Trunk, drop_units

# Parts and parameters that belong to one task each.
_OF_TASKS = ("maps.", "attention.w_task", "attention.own_bias", "heads.")


class Activations(NamedTuple):
    """What a forward pass leaves: outputs [K, O, B], task embeddings [K, T, D, B], weights [K, S,
    T, B] or None.
    """

    outputs: Tensor
    embeddings: Tensor
    weights: Tensor | None


class Network(nn.Module):
    """G models of M members each; every parameter's leading dimension is G, or K = G x M.

    ``clusters`` holds the number of clusters of each clustering task, by its place. Weights are
    drawn by :meth:`draw_`, from the configuration's seed.

    >>> from m3h_core.data.tasks import TaskSpec
    >>> config = FitConfig(hidden=(8,), width=4, members=2)
    >>> layout = Layout.of(5, [TaskSpec("death", "binary"), TaskSpec("los", "regression")], config)
    >>> network = Network(layout, config, clusters={})
    >>> network.draw_()
    >>> network(torch.randn(3, 5)).outputs.shape
    torch.Size([2, 2, 3])
    """

    def __init__(
        self, layout: Layout, config: FitConfig, clusters: Mapping[int, int], models: int = 1
    ) -> None:
        super().__init__()
        self.layout = layout
        self.config = config
        networks = models * config.members
        trunk = Trunk if layout.series is None else RecurrentTrunk
        self.trunk = trunk(layout, config, models)
        self.maps = None
        if layout.hidden:
            size = layout.n_tasks * layout.width
            self.maps = EnsembleLinear(networks, layout.hidden[-1], size, config.dtype)
        self.attention = CrossTaskAttention(
            layout.n_tasks,
            layout.width,
            alpha=config.alpha,
            normalization=config.normalization,
            self_bias=config.self_bias,
            networks=networks,
            dtype=config.dtype,
        )
        self.heads = TaskHeads(layout, config, clusters, models)

    def draw_(self) -> None:
        """Draw all weights from the configuration's seed.

        What the tasks share is drawn first: models of one seed start from the same trunk whatever
        their tasks.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        self.trunk.draw_(generator)
        self.attention.draw_maps_(generator)
        if self.maps is not None:
            self.maps.draw_(generator)
        self.attention.draw_tokens_(generator)
        # Beside a linear path the network starts with nothing to add.
        self.heads.draw_(generator, gain=0.0 if self.config.linear_path else 1.0)
        self.heads.draw_centres_(torch.Generator().manual_seed(self.config.seed))

    def forward(self, x_BF: Tensor, drop: Sequence[Tensor] = ()) -> Activations:
        """All K networks on one batch.

        ``drop`` holds a mask [M, H, B] for each trunk layer, already scaled.
        """
        h = self.trunk(self.trunk.first(x_BF), drop)
        if self.maps is not None:
            h = self.maps(drop_units(h, drop, -1)).relu()
        x_KTDB = h.reshape(h.shape[0], self.layout.n_tasks, self.layout.width, -1)
        heads_KOD = self.heads.weight @ self.attention.w_value.transpose(1, 2)
        one_each = self.layout.n_outputs == self.layout.n_tasks
        owner = self.heads.owner
        weights = None
        if self.layout.n_tasks == 1 or not self.config.attention:
            # One product for all tasks: the gradient of each x[:, i] would be as large as x, most
            # of it zeros.
            own = x_KTDB if one_each else x_KTDB.index_select(1, owner)
            y = (heads_KOD.unsqueeze(2) @ own).squeeze(2)
        else:
            weights, seen_KSOB = self.attention.look(x_KTDB, heads_KOD)
            of_outputs = weights if one_each else weights.index_select(2, owner)
            y = (of_outputs * seen_KSOB).sum(1)
        return Activations(y + self.heads.bias.unsqueeze(-1), x_KTDB, weights)

    def attended(self, state: Activations, task: int) -> Tensor:
        """The embedding [K, D, B] that a task's head reads, of each of the K networks."""
        x_KTDB = state.embeddings
        mixed = x_KTDB[:, task]
        if state.weights is not None:
            mixed = (state.weights[:, :, task].unsqueeze(2) * x_KTDB).sum(1)
        return torch.bmm(self.attention.w_value.transpose(1, 2), mixed)

    def read(self, state: Activations, task: int) -> Tensor:
        """The same of the members of a model side by side [G, B, M * D]: where its clusters lie."""
        z_KDB = self.attended(state, task)
        wide = (-1, self.config.members * self.layout.width, z_KDB.shape[-1])
        return z_KDB.view(wide).transpose(1, 2)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that all tasks share, by name."""
        return {
            name: value for name, value in self.named_parameters() if not name.startswith(_OF_TASKS)
        }

    # Models side by side --------------------------------------------------------------------------

    @classmethod
    def side_by_side(cls, networks: Sequence[Network]) -> Network:
        """One network of all these; they must be of equal layout and configuration."""
        first = networks[0]
        wide = cls(first.layout, first.config, first.heads.clusters, len(networks))
        parts = zip(*(network.parameters() for network in networks), strict=True)
        for parameter, values in zip(wide.parameters(), parts, strict=True):
            parameter.data = torch.cat([value.detach() for value in values])
        return wide

    @property
    def models(self) -> int:
        """The number G of models."""
        return self.trunk.first.weight.shape[0]

    def put(self, places: Sequence[int], other: Network, others: Sequence[int]) -> None:
        """Take over the weights of some of another network's models, for those at ``places``."""
        models = other.models
        for parameter, value in zip(self.parameters(), other.parameters(), strict=True):
            part = rows_of(places, self.models, parameter)
            parameter.data[part] = value.data[rows_of(others, models, value)]


def rows_of(places: Sequence[int], models: int, value: Tensor) -> Tensor:
    """The rows of some models in a parameter of so many; members follow each other."""
    members = value.shape[0] // models
    at = torch.tensor(places, device=value.device)
    return (at[:, None] * members + torch.arange(members, device=value.device)).flatten()


def keep_models(module: nn.Module, places: Sequence[int], models: int) -> None:
    """Go on with some of the models: the module gets new parameters, without a gradient."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            rows = parameter.data[rows_of(places, models, parameter)]
            kept = nn.Parameter(rows, requires_grad=parameter.requires_grad)
            part.register_parameter(name, kept)
