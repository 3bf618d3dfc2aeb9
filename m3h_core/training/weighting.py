"""How the losses of the tasks are weighed against each other while a model trains.

"equal" is their sum. "uncertainty" (Kendall, Gal and Cipolla, 2018) learns a variance for each
task: a loss that stays high is taken as noise and counts less. The others combine the gradients of
the tasks at each step, so that where these are in conflict no task pays for the rest; they are
TorchJD's, which the extra ``gradients`` installs.

Shapes: G models, M members, T tasks, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.model.network import Network, keep_models
from m3h_core.training.objective import Objective

# Names in torchjd.aggregation. Left out are those that need more than PyTorch, and those that
# remember earlier steps: their memory is not in a checkpoint.
AGGREGATORS = {
    "upgrad": "UPGrad",
    "dualproj": "DualProj",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "imtl_g": "IMTLG",
    "aligned_mtl": "AlignedMTL",
    "config": "ConFIG",
}


def by_uncertainty(
    loss_GMT: Tensor, share_G1T: Tensor, log_variance: Tensor, categorical_GT: Tensor
) -> Tensor:
    """Negative log-likelihood [G, M, T] of the losses under learned variances ``log_variance`` [G x
    M, T].

    A task's squared error is divided by twice its variance, its cross-entropy by the variance alone
    (a softmax sharpened by it), and half the log-variance is added for each label: ``share_G1T`` is
    the mean weight of a row, 0 where no label is known, so that a task without labels leaves its
    variance where it is.
    """
    log_variance_GMT = log_variance.view(loss_GMT.shape)
    factor_G1T = (1 + categorical_GT.to(loss_GMT)).unsqueeze(1) / 2
    return factor_G1T * torch.exp(-log_variance_GMT) * loss_GMT + log_variance_GMT / 2 * share_G1T


class BatchLosses(NamedTuple):
    """The losses of a batch [G, M, T], and what else a weighting looks at.

    ``weights`` [G, 1, T, B] are the rows' own; ``share`` is the part of the batch that this process
    has; ``clusters`` the clusters' loss, None before they start.
    """

    losses: Tensor
    weights: Tensor
    share: float
    clusters: Tensor | None


class EqualWeighting(nn.Module):
    """The sum of the tasks' losses."""

    def backward(self, batch: BatchLosses, network: Network, new_seed: Callable[[], int]) -> None:
        """Leave the gradient of a batch in a network; ``new_seed`` is for what draws."""
        _sum_up(batch.losses, batch.clusters).backward()

    def keep(self, places: Sequence[int], models: int) -> None:
        """Go on with some of the models only."""


class UncertaintyWeighting(EqualWeighting):
    """A learned variance for each task of each network: ``log_variance`` [G x M, T]."""

    def __init__(self, objective: Objective, config: FitConfig) -> None:
        super().__init__()
        self.objective = objective
        shape = (objective.models * config.members, objective.layout.n_tasks)
        start = torch.zeros(shape, dtype=config.dtype, device=objective.slots_GT.device)
        self.log_variance = nn.Parameter(start)

    def backward(self, batch: BatchLosses, network: Network, new_seed: Callable[[], int]) -> None:
        share_G1T = batch.weights.mean(-1) * batch.share
        losses = by_uncertainty(
            batch.losses, share_G1T, self.log_variance, self.objective.categorical_GT
        )
        _sum_up(losses, batch.clusters).backward()

    def keep(self, places: Sequence[int], models: int) -> None:
        keep_models(self, places, models)


class CombinedGradients(EqualWeighting):
    """A method that combines the tasks' gradients, of one model alone."""

    def __init__(self, weighting: str) -> None:
        super().__init__()
        self.descend = gradient_method(weighting)

    def backward(self, batch: BatchLosses, network: Network, new_seed: Callable[[], int]) -> None:
        # Of the tasks that have a label in the batch: a gradient of zeros would stall some methods.
        labelled_T = batch.weights[0, 0].any(1).tolist()
        losses = [
            loss
            for loss, labelled in zip(batch.losses[0].mean(0), labelled_T, strict=True)
            if labelled
        ]
        if batch.clusters is not None:
            losses.append(batch.clusters)
        seed = new_seed()
        if losses:
            shared = network.shared_parameters().values()
            self.descend(losses, [*shared, *network.task_parameters().values()], seed)


def new_weighting(config: FitConfig, objective: Objective, processes: int) -> EqualWeighting:
    """The weighting that a configuration asks for; ValueError where several models or processes
    can't have it.
    """
    if config.weighting == "uncertainty":
        return UncertaintyWeighting(objective, config)
    if config.weighting not in AGGREGATORS:
        return EqualWeighting()
    if objective.models > 1:
        raise ValueError(f"a model of the weighting {config.weighting!r} is trained alone")
    if processes > 1:
        raise ValueError(f"a model of the weighting {config.weighting!r} is trained by one process")
    return CombinedGradients(config.weighting)


def _sum_up(losses_GMT: Tensor, clusters: Tensor | None) -> Tensor:
    total = losses_GMT.mean(1).sum()
    return total if clusters is None else total + clusters


def gradient_method(weighting: str) -> Callable[[Sequence[Tensor], Iterable[Tensor], int], None]:
    """A function (losses, parameters, seed) that leaves a combination of the losses' gradients in
    ``.grad``.

    A parameter that no loss depends on is left as it is. Raises ImportError where TorchJD is not
    installed.
    """
    try:
        from torchjd import aggregation
        from torchjd.autojac import backward, jac_to_grad

        aggregator = getattr(aggregation, AGGREGATORS[weighting])()
    except ImportError as error:
        raise ImportError(
            f'weighting {weighting!r} needs TorchJD: pip install "m3h[gradients]"'
        ) from error

    def descend(losses: Sequence[Tensor], parameters: Iterable[Tensor], seed: int) -> None:
        backward(losses)
        # Some methods draw the order of the tasks, from PyTorch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not the GPU's: they would stay changed
            jac_to_grad([value for value in parameters if hasattr(value, "jac")], aggregator)

    return descend
