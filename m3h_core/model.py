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

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from m3h_core.attention import Normalization, SelfBias, attention_weights, check_choices
from m3h_core.losses import soft_assignment
from m3h_core.tasks import TaskSpec
from m3h_core.weighting import Weighting, check_weighting

# Standardised inputs beyond this many standard deviations are cut: one typing error must not steer
# a layer.
CLIP = 8.0


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that shapes a model and its training; equal configurations and data give equal
    numbers on a CPU.

    The network: ``hidden`` are the widths of the trunk (empty: the paper's form, task maps straight
    from the fused embeddings); ``width`` that of a task's embedding; ``members`` networks, which
    share their first layer, are averaged; ``linear_path`` adds to each head a ridge regression on
    the inputs, fitted before the network in closed form (see linear.py); ``borrowing`` lets a task
    with few labels read the outputs of tasks with many (see borrowing.py); ``attention=False`` cuts
    the tasks apart after the trunk; ``residual`` adds a task's own value to what it attends to
    (ours).

    Training: ``averaging`` is the share that the moving average of the weights keeps at each epoch;
    ``balance`` says how a task with few labels is weighted, from 1 (the sum of the tasks' mean
    losses, as in the paper: every task counts alike) to 0 (every label counts alike); ``weighting``
    how the tasks' losses are weighed as they are learned (see weighting.py: "equal", "uncertainty",
    or one of the methods that combine the tasks' gradients, which train models one by one);
    ``patience`` is the number of epochs without a better validation loss after which training
    stops; ``batch_size`` is that of a large cohort (one of fewer than 16 batches is read in smaller
    ones). Clusters start at epoch ``cluster_start`` and their targets are renewed every
    ``cluster_refresh`` epochs.

    >>> FitConfig(seed=3).learning_rate == FitConfig().learning_rate
    True
    >>> FitConfig(dropout=1.0)
    Traceback (most recent call last):
        ...
    ValueError: dropout must lie in [0, 1), not 1.0
    """

    seed: int = 0
    epochs: int = 60
    patience: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 5.0
    averaging: float = 0.8
    balance: float = 0.5
    weighting: Weighting = "equal"
    hidden: tuple[int, ...] = (512,)
    width: int = 16
    members: int = 4
    dropout: float = 0.3
    input_dropout: float = 0.0
    modality_dropout: float = 0.1
    linear_path: bool = True
    borrowing: bool = True
    attention: bool = True
    alpha: float = 1.0
    normalization: Normalization = "stable"
    self_bias: SelfBias = "scaled"
    residual: bool = False
    cluster_start: int = 5
    cluster_refresh: int = 3
    cluster_weight: float = 0.1
    cluster_components: int = 16
    max_clusters: int = 8
    device: str = "auto"
    precision: Literal["float32", "float64", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_choices(self.normalization, self.self_bias)
        check_weighting(self.weighting)
        for name in ("dropout", "input_dropout", "modality_dropout", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        for name in (
            "epochs",
            "patience",
            "batch_size",
            "width",
            "members",
            "cluster_refresh",
            "cluster_components",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in ("float32", "float64", "bfloat16"):
            raise ValueError(
                f"precision {self.precision!r} is not one of float32, float64, bfloat16"
            )

    @property
    def torch_device(self) -> torch.device:
        """Where training runs; "auto" is a GPU where there is one."""
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights; bfloat16 is a type of the products only."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, read back by :meth:`from_dict`."""
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FitConfig:
        """Read what :meth:`to_dict` wrote.

        >>> FitConfig.from_dict(FitConfig(width=8).to_dict()) == FitConfig(width=8)
        True
        """
        return cls(**record)


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


class Activations(NamedTuple):
    """What a forward pass leaves: outputs [K, O, B], task embeddings [K, T, D, B], weights [K, S,
    T, B] or None.
    """

    outputs: Tensor
    embeddings: Tensor
    weights: Tensor | None


def initial_parameters(layout: Layout, config: FitConfig) -> dict[str, Tensor]:
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
        own = x if layout.n_outputs == t else x.index_select(1, owners(layout, x.device))
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
        owner = owners(layout, x.device)
        spread = weights if layout.n_outputs == t else weights.index_select(2, owner)
        y = (spread * values).sum(1)
        if config.residual:
            y = y + values[:, owner, torch.arange(layout.n_outputs, device=x.device)]
    return Activations(y + p["head_bias"].unsqueeze(-1), x, weights)


def attended(p: Mapping[str, Tensor], config: FitConfig, state: Activations, task: int) -> Tensor:
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


def owners(layout: Layout, device: torch.device) -> Tensor:
    """The task [O] of each output."""
    return torch.repeat_interleave(torch.arange(layout.n_tasks), torch.tensor(layout.outputs)).to(
        device
    )


def standardized(
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
        there = present[name].to(mean.device)
        if values.shape != (batch, width):
            raise ValueError(
                f"embeddings[{name!r}] must be [{batch}, {width}], not {list(values.shape)}"
            )
        z = ((values - mean[part]) * inverse_scale[part]).clamp(-CLIP, CLIP)
        x_BF[:, part] = torch.where(there.unsqueeze(1), z, 0)
        x_BF[:, i] = (~there).to(x_BF)
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
    >>> present = {"tabular": torch.ones(5, dtype=torch.bool), "vision": torch.zeros(5, dtype=torch.bool)}
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
        for name, value in initial_parameters(self.layout, self.config).items():
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
                attended(p, self.config, state, i).flatten(0, 1).T, p[f"centres_{i}"]
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
        return standardized(embeddings, present, self.modalities, self.mean, self.inverse_scale)

    def _by_task(
        self, p: Mapping[str, Tensor], state: Activations, y_OB: Tensor
    ) -> dict[str, Tensor]:
        result = {}
        for i, (task, part) in enumerate(zip(self.tasks, self.layout.slices, strict=True)):
            if task.problem == "clustering":
                result[task.name] = soft_assignment(
                    attended(p, self.config, state, i).flatten(0, 1).T, p[f"centres_{i}"]
                )
            else:
                result[task.name] = (
                    y_OB[part].T if task.problem == "multiclass" else y_OB[part.start]
                )
        return result
