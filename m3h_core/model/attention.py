"""Cross-task attention: each task looks at itself (self-exploitation) and at the others
(cross-exploration).

The formulas follow second-hand descriptions of M3H (arXiv 2404.18975); the stable normalisation and
the scaled self bias are ours. Shapes: B batch, T tasks, S tasks as sources (the same tasks), D
width of a task's embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from m3h_core.config import Normalization, SelfBias, check_choices

EPS = 1e-8


def attention_weights(
    scores_STB: Tensor,
    *,
    alpha: float = 1.0,
    normalization: Normalization = "stable",
    self_bias: SelfBias = "paper",
) -> Tensor:
    """Weights [..., S, T, B] that sum to 1 over the sources S, from the scores [..., S, T, B].

    With M the T x T scores of a sample: softmax over the sources of ``bias I + alpha M / max(M)``
    ("paper", which flips its sign where the maximum is negative and is undefined where it is 0) or
    of ``bias I + alpha M / (max|M| + eps)`` ("stable", finite for every finite M). The bias is 1
    ("paper") or 1 + log T ("scaled": ours; a task keeps its weight however many tasks there are).
    The batch lies last, so that every operation runs along contiguous memory.

    >>> attention_weights(torch.zeros(2, 2, 1), self_bias="scaled")[:, 0, 0]
    tensor([0.8446, 0.1554])
    """
    tasks = scores_STB.shape[-2]
    if tasks == 1:
        return torch.ones_like(scores_STB)
    if normalization == "paper":
        largest = scores_STB.amax(dim=(-3, -2), keepdim=True)
    else:
        largest = scores_STB.abs().amax(dim=(-3, -2), keepdim=True) + EPS
    bias = torch.eye(tasks, dtype=scores_STB.dtype, device=scores_STB.device).unsqueeze(
        -1
    ) * own_bias(tasks, self_bias)
    return torch.softmax(bias + scores_STB * (alpha / largest), dim=-3)


def own_bias(n_tasks: int, self_bias: SelfBias) -> float:
    """What is added to a task's score for itself before the softmax."""
    return 1.0 if self_bias == "paper" else 1.0 + math.log(n_tasks)


class CrossTaskAttention(nn.Module):
    """The attention between the tasks' embeddings of one sample.

    Row vectors: Q = w_task @ w_query (a learned token for each task, the same for every patient), K
    = x @ w_key, V = x @ w_value; M = Q K^T, and O = A V with the weights A of
    :func:`attention_weights`.

    >>> _ = torch.manual_seed(0)
    >>> o_BTD, weights_BTT = CrossTaskAttention(n_tasks=3, width=4)(torch.randn(2, 3, 4))
    >>> o_BTD.shape, bool(torch.allclose(weights_BTT.sum(-1), torch.ones(2, 3)))
    (torch.Size([2, 3, 4]), True)
    """

    def __init__(
        self,
        n_tasks: int,
        width: int,
        alpha: float = 1.0,
        normalization: Normalization = "stable",
        self_bias: SelfBias = "paper",
    ) -> None:
        super().__init__()
        check_choices(normalization, self_bias)
        self.alpha = alpha
        self.normalization = normalization
        self.self_bias = self_bias
        self.w_task = nn.Parameter(torch.randn(n_tasks, width))
        self.w_query = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.w_key = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.w_value = nn.Parameter(torch.randn(width, width) / math.sqrt(width))

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The attended embeddings [B, T, D] and the weights [B, T, T]; row t of a weight matrix is
        task t's.
        """
        if x_BTD.shape[1:] != self.w_task.shape:
            raise ValueError(
                f"expected [B, {', '.join(map(str, self.w_task.shape))}], got {list(x_BTD.shape)}: "
                "tasks and width"
            )
        scores_BTS = (self.w_task @ self.w_query) @ (x_BTD @ self.w_key).transpose(-1, -2)
        weights_STB = attention_weights(
            scores_BTS.permute(2, 1, 0),
            alpha=self.alpha,
            normalization=self.normalization,
            self_bias=self.self_bias,
        )
        weights_BTS = weights_STB.permute(2, 1, 0)
        return weights_BTS @ (x_BTD @ self.w_value), weights_BTS
