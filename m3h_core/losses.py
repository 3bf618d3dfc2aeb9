"""Losses, one for each problem class, per row: masking and averaging is the caller's.

Shapes: B batch, C classes, N samples, D width, c clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scalar_loss(outputs: Tensor, targets: Tensor, regression: Tensor) -> Tensor:
    """Loss of tasks with one output, row by row: squared error where ``regression``, else binary
    cross-entropy.

    ``outputs`` are logits or standardised values [..., B], ``targets`` alike, ``regression`` bool,
    broadcastable.

    >>> scalar_loss(torch.zeros(2), torch.tensor([1.0, 3.0]), torch.tensor([False, True]))
    tensor([0.6931, 9.0000])
    """
    if regression.all():
        return (outputs - targets).square()
    entropy = F.binary_cross_entropy_with_logits(
        outputs, targets.expand_as(outputs), reduction="none"
    )
    if not regression.any():
        return entropy
    return torch.where(regression, (outputs - targets).square(), entropy)


def multiclass_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood [..., B] of the classes ``targets`` [..., B] under ``logits`` [...,
    C, B].
    """
    index = targets.long().expand(*logits.shape[:-2], logits.shape[-1]).unsqueeze(-2)
    return -torch.log_softmax(logits, dim=-2).gather(-2, index).squeeze(-2)


def soft_assignment(z_ND: Tensor, centres_cD: Tensor) -> Tensor:
    """Student-t soft assignment q [..., N, c] of embeddings [..., N, D] to cluster centres (deep
    embedded clustering).

    >>> soft_assignment(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([[0.6667, 0.3333]])
    """
    squared = (z_ND.unsqueeze(-2) - centres_cD.unsqueeze(-3)).square().sum(-1)
    q = 1 / (1 + squared)
    return q / q.sum(-1, keepdim=True)


def sharpen(q_Nc: Tensor) -> Tensor:
    """The target p [..., N, c]: q squared over the clusters' sizes, normalised: sharper, and no
    cluster takes all.
    """
    p = q_Nc.square() / q_Nc.sum(-2, keepdim=True).clamp_min(1e-12)
    return p / p.sum(-1, keepdim=True)


def clustering_loss(q_Nc: Tensor, p_Nc: Tensor) -> Tensor:
    """KL(p || q) [..., N] of each row."""
    return (p_Nc * (p_Nc.clamp_min(1e-12).log() - q_Nc.clamp_min(1e-12).log())).sum(-1)
