"""M3H: modality embeddings -> shared trunk -> a map for each task -> cross-task attention -> a head
for each task.

Shapes: B batch, F inputs (all modalities side by side, then a flag for each missing one), H trunk,
T tasks, D width of a task's embedding, O outputs of all tasks side by side, K networks in parallel
(members of one model, or of many).

The network is written for K networks of equal shape at once, with the batch as the last dimension:
activations are [K, features, B]. One matrix product then serves the first layers of all K (they
read the same input) and every later product is one batched call, whether K is the few members of
one model or hundreds of models in a bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from m3h_core.config import FitConfig
from m3h_core.data.tasks import TaskSpec
from m3h_core.losses import soft_assignment
from m3h_core.model.attention import attention_weights
from m3h_core.model.layout import Layout, draw_parameters

# Standardised inputs beyond this many standard deviations are cut: one typing error must not steer
# a layer.
CLIP = 8.0


class Activations(NamedTuple):
    """What a forward pass leaves: outputs [K, O, B], task embeddings [K, T, D, B], weights [K, S,
    T, B] or None.
    """

    outputs: Tensor
    embeddings: Tensor
    weights: Tensor | None


def run(
    p: Mapping[str, Tensor],
    layout: Layout,
    config: FitConfig,
    x_BF: Tensor,
    drop: Sequence[Tensor] = (),
) -> Activations:
    """K networks on one batch, without the linear path: what they add to it.

    ``drop`` holds a mask [members, H, B] for each trunk layer, already scaled.
    """
    k = p["head_bias"].shape[0]
    batch = x_BF.shape[0]
    t = layout.n_tasks
    d = layout.width
    models, rows, _ = p["first_weight"].shape
    first = (p["first_weight"].reshape(models * rows, -1) @ x_BF.T).view(models, rows, batch)
    h = relu(first + p["first_bias"].unsqueeze(-1))
    if "member_scale" in p:
        scale = p["member_scale"].view(models, k // models, layout.first, 1)
        h = (h.unsqueeze(1) * scale).view(k, layout.first, batch)
    for i in range(1, len(layout.hidden)):
        h = torch.baddbmm(
            p[f"trunk_{i}_bias"].unsqueeze(-1), p[f"trunk_{i}_weight"], _dropped(h, drop, i - 1)
        ).relu()
    if layout.hidden:
        bias = p["map_bias"].reshape(k, t * d, 1)
        weight = p["map_weight"].reshape(k, t * d, -1)
        h = torch.baddbmm(bias, weight, _dropped(h, drop, len(layout.hidden) - 1)).relu()
    x = h.reshape(k, t, d, batch)

    # With linear heads neither keys, values nor O are needed: scores and outputs are x . u_t and x
    # . g_o.
    g = p["head_weight"] @ p["w_value"].transpose(1, 2)
    weights = None
    if t == 1 or not config.attention:
        # One product for all tasks: the gradient of each x[:, i] would be as large as x, most of it
        # zeros.
        own = x if layout.n_outputs == t else x.index_select(1, list_owners(layout, x.device))
        y = (g.unsqueeze(2) @ own).squeeze(2)
    else:
        u = (p["w_task"] @ p["w_query"]) @ p["w_key"].transpose(1, 2)
        both = torch.cat([u, g], dim=1).unsqueeze(1).expand(k, t, t + layout.n_outputs, d)
        scores, values = torch.matmul(both, x).split([t, layout.n_outputs], dim=2)
        weights = attention_weights(
            scores,
            alpha=config.alpha,
            normalization=config.normalization,
            self_bias=config.self_bias,
        )
        owner = list_owners(layout, x.device)
        spread = weights if layout.n_outputs == t else weights.index_select(2, owner)
        y = (spread * values).sum(1)
        if config.residual:
            y = y + values[:, owner, torch.arange(layout.n_outputs, device=x.device)]
    return Activations(y + p["head_bias"].unsqueeze(-1), x, weights)


def attend(p: Mapping[str, Tensor], config: FitConfig, state: Activations, task: int) -> Tensor:
    """The embedding [K, D, B] that a task's head reads, of each of the K networks."""
    x = state.embeddings
    mixed = x[:, task]
    if state.weights is not None:
        mixed = (state.weights[:, :, task].unsqueeze(2) * x).sum(1)
        if config.residual:
            mixed = mixed + x[:, task]
    return torch.bmm(p["w_value"].transpose(1, 2), mixed)


def _dropped(h: Tensor, drop: Sequence[Tensor], layer: int) -> Tensor:
    if not drop:
        return h
    mask = drop[layer]
    return (h.view(-1, *mask.shape) * mask).view(h.shape)


def list_owners(layout: Layout, device: torch.device) -> Tensor:
    """The task [O] of each output."""
    return torch.repeat_interleave(torch.arange(layout.n_tasks), torch.tensor(layout.outputs)).to(
        device
    )


def standardize(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    modalities: Mapping[str, int],
    mean: Tensor,
    inverse_scale: Tensor,
) -> Tensor:
    """The input matrix [B, F]; see :meth:`M3H.inputs`."""
    unknown = sorted(set(embeddings) - set(modalities))
    if unknown:
        raise ValueError(f"unknown modalities {unknown}; the model has {sorted(modalities)}")
    if not embeddings:
        raise ValueError("give at least one modality; mark its rows as missing with present")
    batch = len(next(iter(embeddings.values())))
    x_BF = mean.new_zeros(batch, len(mean) + len(modalities))
    start = 0
    for i, (name, width) in enumerate(modalities.items(), start=len(mean)):
        part = slice(start, start + width)
        start += width
        if name not in embeddings:
            x_BF[:, i] = 1
            continue
        values = embeddings[name].to(x_BF)
        is_present = present[name].to(mean.device)
        if values.shape != (batch, width):
            raise ValueError(
                f"embeddings[{name!r}] must be [{batch}, {width}], not {list(values.shape)}"
            )
        z = ((values - mean[part]) * inverse_scale[part]).clamp(-CLIP, CLIP)
        x_BF[:, part] = torch.where(is_present.unsqueeze(1), z, 0)
        x_BF[:, i] = (~is_present).to(x_BF)
    return x_BF


class M3H(nn.Module):
    """The network: any subset of the modalities of a patient in, an output for each task out.

    A modality that is missing is not passed off as zeros: its share of the first layer is replaced
    by a learned token. Inputs are standardised inside (``mean`` and ``inverse_scale`` are set by
    :func:`m3h_core.fit` from the training split), and the linear path is a buffer too,
    ``linear_weight`` [O, F]: it is fitted, not trained. Every parameter has a leading dimension:
    the members, whose outputs are averaged.

    >>> import torch
    >>> tasks = [TaskSpec("death", "binary"), TaskSpec("destination", "multiclass", classes=3)]
    >>> model = M3H({"tabular": 4, "vision": 8}, tasks, FitConfig(hidden=(16,), width=4))
    >>> embeddings = {"tabular": torch.randn(5, 4), "vision": torch.randn(5, 8)}
    >>> nobody = torch.zeros(5, dtype=torch.bool)
    >>> present = {"tabular": ~nobody, "vision": nobody}
    >>> {name: tuple(y.shape) for name, y in model(embeddings, present).items()}
    {'death': (5,), 'destination': (5, 3)}
    """

    mean: Tensor
    inverse_scale: Tensor
    linear_weight: Tensor
    borrow_outputs: Tensor
    borrow_inputs: Tensor
    borrow_bias: Tensor
    head_bias: Tensor

    def __init__(
        self,
        modalities: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        config: FitConfig | None = None,
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) < len(names):
            raise ValueError(f"tasks must be at least one and have different names, got {names}")
        if not modalities or min(modalities.values()) < 1:
            raise ValueError(
                f"modalities must be at least one, each at least 1 wide, got {dict(modalities)}"
            )
        self.modalities = dict(modalities)
        self.tasks = tuple(tasks)
        self.config = config or FitConfig()
        features = sum(modalities.values())
        self.layout = Layout.of(features + len(modalities), tasks, self.config)
        self.register_buffer("mean", torch.zeros(features, dtype=self.config.dtype))
        self.register_buffer("inverse_scale", torch.ones(features, dtype=self.config.dtype))
        if self.config.linear_path:
            linear = torch.zeros(
                self.layout.n_outputs, self.layout.n_inputs, dtype=self.config.dtype
            )
            self.register_buffer("linear_weight", linear)
        if self.config.borrowing:
            outputs = self.layout.n_outputs
            inputs = self.layout.n_inputs
            self.register_buffer("borrow_outputs", torch.eye(outputs, dtype=self.config.dtype))
            self.register_buffer(
                "borrow_inputs", torch.zeros(outputs, inputs, dtype=self.config.dtype)
            )
            self.register_buffer("borrow_bias", torch.zeros(outputs, dtype=self.config.dtype))
        for name, value in draw_parameters(self.layout, self.config).items():
            self.register_parameter(name, nn.Parameter(value))
        generator = torch.Generator().manual_seed(self.config.seed)
        for i in self.layout.clustering:
            shape = (tasks[i].n_classes or 2, self.config.members * self.config.width)
            centres = torch.randn(shape, generator=generator, dtype=torch.float64).to(
                self.config.dtype
            )
            self.register_parameter(f"centres_{i}", nn.Parameter(centres))

    def forward(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Outputs by task, from embeddings {modality: [B, F_m]} and present {modality: bool [B]}.

        Binary: logit [B]; multiclass: logits [B, classes]; regression: standardised value [B];
        clustering: soft assignment [B, clusters]. A modality that is left out counts as missing for
        every row.
        """
        p = dict(self.named_parameters())
        x_BF = self.inputs(embeddings, present)
        state = run(p, self.layout, self.config, x_BF)
        y_OB = self._own(state, x_BF)
        if self.config.borrowing:
            y_OB = (
                self.borrow_outputs @ y_OB
                + self.borrow_inputs @ x_BF.T
                + self.borrow_bias.unsqueeze(1)
            )
        return self._by_task(p, state, y_OB)

    def distances(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Distances [B, clusters] from the centres of each clustering task, in its embedding; none
        for other tasks.
        """
        p = dict(self.named_parameters())
        state = run(p, self.layout, self.config, self.inputs(embeddings, present))
        return {
            self.tasks[i].name: torch.cdist(
                attend(p, self.config, state, i).flatten(0, 1).T, p[f"centres_{i}"]
            )
            for i in self.layout.clustering
        }

    def own_outputs(self, x_BF: Tensor) -> Tensor:
        """Outputs [O, B] of the members' mean and the linear path, before tasks borrow, from
        :meth:`inputs`.
        """
        return self._own(run(dict(self.named_parameters()), self.layout, self.config, x_BF), x_BF)

    def _own(self, state: Activations, x_BF: Tensor) -> Tensor:
        mean_OB = state.outputs.mean(0)
        return mean_OB + self.linear_weight @ x_BF.T if self.config.linear_path else mean_OB

    def attention(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Attention weights [B, T, T], averaged over the members; row t holds what task t takes
        from each task.
        """
        p = dict(self.named_parameters())
        x_BF = self.inputs(embeddings, present)
        weights = run(p, self.layout, self.config, x_BF).weights
        if weights is None:
            return torch.eye(len(self.tasks), dtype=x_BF.dtype).expand(x_BF.shape[0], -1, -1)
        return weights.mean(0).permute(2, 1, 0)

    def inputs(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The input matrix [B, F]: standardised embeddings, 0 where missing, then a flag for each
        missing modality.
        """
        return standardize(embeddings, present, self.modalities, self.mean, self.inverse_scale)

    def _by_task(
        self, p: Mapping[str, Tensor], state: Activations, y_OB: Tensor
    ) -> dict[str, Tensor]:
        result = {}
        for i, (task, part) in enumerate(zip(self.tasks, self.layout.slices, strict=True)):
            if task.problem == "clustering":
                result[task.name] = soft_assignment(
                    attend(p, self.config, state, i).flatten(0, 1).T, p[f"centres_{i}"]
                )
            else:
                result[task.name] = (
                    y_OB[part].T if task.problem == "multiclass" else y_OB[part.start]
                )
        return result
