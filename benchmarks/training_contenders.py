"""The loops that training is measured against: plain PyTorch, LibMTL, TorchJD."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m3h_core import CrossTaskAttention, FitConfig, TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import Trainer

N_TASKS = 31


TASKS = tuple(
    TaskSpec(f"task_{i}", "regression" if i >= N_TASKS - 2 else "binary") for i in range(N_TASKS)
)


class Encoder(nn.Module):
    """Trunk, a map for each task, attention where it is on: inputs [B, F] to task embeddings [B, T,
    D].
    """

    def __init__(self, n_inputs: int, config: FitConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((n_inputs, *config.hidden), config.hidden, strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(config.dropout)]
        self.trunk = nn.Sequential(*layers)
        self.maps = nn.Linear(config.hidden[-1], N_TASKS * config.width)
        self.width = config.width
        self.mix = (
            CrossTaskAttention(N_TASKS, config.width, self_bias="scaled")
            if config.attention
            else None
        )

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BTD = F.relu(self.maps(self.trunk(x_BF))).view(-1, N_TASKS, self.width)
        return self.mix(x_BTD)[0] if self.mix else x_BTD


class Network(nn.Module):
    """The encoder and a linear head for each task: inputs [B, F] to outputs [B, T]."""

    def __init__(self, n_inputs: int, config: FitConfig) -> None:
        super().__init__()
        self.encoder = Encoder(n_inputs, config)
        self.heads = nn.Parameter(torch.randn(N_TASKS, config.width) / config.width**0.5)
        self.bias = nn.Parameter(torch.zeros(N_TASKS))

    def forward(self, x_BF: Tensor) -> Tensor:
        return (self.encoder(x_BF) * self.heads).sum(-1) + self.bias


Backward = Callable[[Network, Tensor, Tensor, Tensor], Tensor]


def losses_of(outputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Losses [B, T]: cross-entropy, and squared error of the last two tasks."""
    entropy = F.binary_cross_entropy_with_logits(
        outputs_BT[:, :-2], targets_BT[:, :-2], reduction="none"
    )
    return torch.cat([entropy, (outputs_BT[:, -2:] - targets_BT[:, -2:]).square()], dim=1)


def plain_loop(data: TrainingData, config: FitConfig, backward: Backward) -> Callable[[], None]:
    """What a good engineer writes without a library: whole tensors, fused AdamW, the best weights
    kept.
    """
    network = Network(data.x_train.shape[1], config)
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    x = data.x_train
    y = data.targets.T.contiguous()
    w = data.weights.T.contiguous()
    valid_y = data.valid_targets.T.contiguous()
    valid_mask = data.valid_mask.T.contiguous()

    def loop() -> None:
        best = float("inf")
        kept = {}
        for _ in range(config.epochs):
            network.train()
            total = torch.zeros(N_TASKS)
            for rows in torch.randperm(len(x)).split(config.batch_size):
                total += backward(network, x[rows], y[rows], w[rows])
                optimizer.step()
                optimizer.zero_grad()
            network.eval()
            with torch.no_grad():
                valid = (
                    (losses_of(network(data.x_valid), valid_y) * valid_mask).sum(0)
                    / valid_mask.sum(0)
                ).sum()
            if valid.item() < best:
                best = valid.item()
                kept = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(kept)

    return loop


def backward_of_sum(network: Network, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Summed masked losses; returns each task's."""
    loss_T = (losses_of(network(x), y) * w).mean(0)
    loss_T.sum().backward()
    return loss_T.detach()


def ours(prepared: Prepared, config: FitConfig) -> Callable[[], None]:
    """The trainer behind `fit`."""
    model = prepared.new_model(TASKS, config)
    return lambda: Trainer(prepared, [model]).run()


def plain(prepared: Prepared, config: FitConfig) -> Callable[[], None]:
    """The plain loop."""
    return plain_loop(prepared.data, config, backward_of_sum)


def torchjd(prepared: Prepared, config: FitConfig) -> Callable[[], None]:
    """The plain loop with TorchJD's backward pass."""
    from torchjd import autojac
    from torchjd.aggregation import Sum

    def backward(network: Network, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        loss_T = (losses_of(network(x), y) * w).mean(0)
        autojac.backward(list(loss_T))
        autojac.jac_to_grad(list(network.parameters()), Sum())
        return loss_T.detach()

    return plain_loop(prepared.data, config, backward)


class Batches:
    """What LibMTL takes for a DataLoader: shuffled batches of inputs [B, F] and {task: [B, 2],
    target and weight}.
    """

    def __init__(
        self, x: Tensor, targets: Tensor, weights: Tensor, batch_size: int, shuffled: bool
    ) -> None:
        self.x = x
        self.y = torch.stack([targets, weights], -1)
        self.size = batch_size
        self.shuffled = shuffled

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        order = torch.randperm(len(self.x)) if self.shuffled else torch.arange(len(self.x))
        for rows in order.split(self.size):
            yield (
                self.x[rows],
                dict(zip((task.name for task in TASKS), self.y[:, rows], strict=True)),
            )


def libmtl(prepared: Prepared, config: FitConfig) -> Callable[[], None]:
    """LibMTL's own Trainer."""
    from LibMTL import Trainer as LibMTLTrainer  # ty: ignore[import-not-found]
    from LibMTL.loss import AbsLoss  # ty: ignore[import-not-found]
    from LibMTL.metrics import AbsMetric  # ty: ignore[import-not-found]

    data = prepared.data

    class Loss(AbsLoss):
        def __init__(self, problem: str) -> None:
            super().__init__()
            self.regression = problem == "regression"

        def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
            output = pred[:, 0]
            target = gt[:, 0]
            if self.regression:
                return ((output - target).square() * gt[:, 1]).mean()
            return F.binary_cross_entropy_with_logits(output, target, gt[:, 1])

    class NoMetric(AbsMetric):
        def update_fun(self, pred: Tensor, gt: Tensor) -> None:
            pass

        def score_fun(self) -> list[float]:
            return [1.0]

    class OnCpu(LibMTLTrainer):
        def _prepare_model(self, *args) -> None:
            self.device = torch.device("cpu")  # it knows cuda:0 alone
            super()._prepare_model(*args)

    class ListEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder(data.x_train.shape[1], config)

        def forward(self, x_BF: Tensor) -> list[Tensor]:
            return list(self.encoder(x_BF).unbind(1))

    about = {
        t.name: {
            "metrics": ["none"],
            "metrics_fn": NoMetric(),
            "loss_fn": Loss(t.problem),
            "weight": [1],
        }
        for t in TASKS
    }
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = OnCpu(
            task_dict=about,
            weighting="EW",
            architecture="HPS",
            encoder_class=ListEncoder,
            decoders=nn.ModuleDict({task.name: nn.Linear(config.width, 1) for task in TASKS}),
            rep_grad=False,
            multi_input=False,
            optim_param={"optim": "adam", "lr": config.learning_rate, "fused": True},
            scheduler_param=None,
            weight_args={},
            arch_args={},
        )
    train = Batches(data.x_train, data.targets, data.weights, config.batch_size, shuffled=True)
    valid = Batches(
        data.x_valid, data.valid_targets, data.valid_mask, len(data.x_valid), shuffled=False
    )

    def loop() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train(train, valid, config.epochs)

    return loop


CONTENDERS = {"ours": ours, "plain": plain, "LibMTL": libmtl, "TorchJD": torchjd}


MODULES = {"LibMTL": "LibMTL", "TorchJD": "torchjd"}


EPOCHS = {"TorchJD": 1}  # a gradient for each task: one epoch takes as long as ten of the others
