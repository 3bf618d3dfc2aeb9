"""How the losses of the tasks are weighed against each other while a model trains.

"equal" is their sum. "uncertainty" (Kendall, Gal and Cipolla, 2018) learns a variance for each
task: a loss that stays high is taken as noise and counts less.

Shapes: G models, M members, T tasks, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.model.network import keep_models
from m3h_core.training.objective import Objective


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

    def forward(self, batch: BatchLosses) -> Tensor:
        """What a batch's step is to lower."""
        return _sum_up(batch.losses, batch.clusters)

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

    def forward(self, batch: BatchLosses) -> Tensor:
        share_G1T = batch.weights.mean(-1) * batch.share
        losses = by_uncertainty(
            batch.losses, share_G1T, self.log_variance, self.objective.categorical_GT
        )
        return _sum_up(losses, batch.clusters)

    def keep(self, places: Sequence[int], models: int) -> None:
        keep_models(self, places, models)


def new_weighting(config: FitConfig, objective: Objective) -> EqualWeighting:
    """The weighting that a configuration asks for."""
    if config.weighting == "uncertainty":
        return UncertaintyWeighting(objective, config)
    return EqualWeighting()


def _sum_up(losses_GMT: Tensor, clusters: Tensor | None) -> Tensor:
    total = losses_GMT.mean(1).sum()
    return total if clusters is None else total + clusters
