"""Cross-task attention: each task looks at itself (self-exploitation) and at the others
(cross-exploration).

The formulas follow second-hand descriptions of M3H (arXiv 2404.18975); the stable normalisation,
the scaled self bias and the learned form are ours. Shapes: B batch, T tasks, S tasks as sources
(the same tasks), D width of a task's embedding, R linear readers of it. The batch lies last inside,
first outside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from m3h_core.config import Normalization, SelfBias, check_choice
from m3h_core.model.ensemble_linear import draw_normal_

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
    :func:`attention_weights`. Parameters are ``w_task`` [T, D] and ``w_query``, ``w_key``,
    ``w_value`` [D, D], drawn from PyTorch's generator. With ``networks`` there are so many side by
    side, with a leading dimension in every parameter, in what is read and in what comes out; their
    parameters are drawn by who makes them.

    With the normalization "learned" A is the softmax over the sources of ``diag(own_bias) + alpha M
    / (temperature sqrt(D))``, which caps nothing: ``own_bias`` [T] is a parameter that starts at
    the value of ``self_bias``, and ``log_temperature`` [1, 1] one that starts at 0.

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
        *,
        networks: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("normalization", normalization)
        check_choice("self_bias", self_bias)
        self.alpha = alpha
        self.normalization = normalization
        self.self_bias = self_bias
        leading = () if networks is None else (networks,)
        self.w_query = nn.Parameter(torch.empty(*leading, width, width, dtype=dtype))
        self.w_key = nn.Parameter(torch.empty(*leading, width, width, dtype=dtype))
        self.w_value = nn.Parameter(torch.empty(*leading, width, width, dtype=dtype))
        self.w_task = nn.Parameter(torch.empty(*leading, n_tasks, width, dtype=dtype))
        if normalization == "learned":
            start = torch.full((*leading, n_tasks), own_bias(n_tasks, self_bias), dtype=dtype)
            self.own_bias = nn.Parameter(start)
            self.log_temperature = nn.Parameter(torch.zeros(*leading, 1, 1, dtype=dtype))
        if networks is None:
            with torch.no_grad():
                self.w_task.normal_()
                for parameter in (self.w_query, self.w_key, self.w_value):
                    parameter.normal_().div_(math.sqrt(width))

    def draw_maps_(self, generator: torch.Generator) -> None:
        """Draw what the tasks share, for several networks at once."""
        for parameter in (self.w_query, self.w_key, self.w_value):
            draw_normal_(parameter, generator, fan_in=parameter.shape[-1])

    def draw_tokens_(self, generator: torch.Generator) -> None:
        """Draw the tasks' tokens."""
        draw_normal_(self.w_task, generator, fan_in=1)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The attended embeddings [B, T, D] and the weights [B, T, T]; row t of a weight matrix is
        task t's.
        """
        if x_BTD.dim() <= self.w_task.dim() or x_BTD.shape[-2:] != self.w_task.shape[-2:]:
            raise ValueError(
                f"expected [B, {', '.join(map(str, self.w_task.shape[-2:]))}], got "
                f"{list(x_BTD.shape)}: tasks and width"
            )
        values_RD = self.w_value.transpose(-1, -2)
        weights_STB, values_SDB = self.look(x_BTD.movedim(-3, -1), values_RD)
        weights_BTS = weights_STB.movedim(-1, -3).transpose(-1, -2)
        return weights_BTS @ values_SDB.movedim(-1, -3), weights_BTS

    def look(self, x_TDB: Tensor, readers_RD: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [..., S, T, B] of each source for each task, and what linear readers see of
        each source [..., S, R, B].

        The readers [..., R, D] stand behind w_value: its columns themselves give V, and a head's
        weights @ w_value^T what the head makes of V. So keys, V and O are never built where linear
        heads follow: for every source the scores and the outputs are one product.
        """
        tasks, width = self.w_task.shape[-2:]
        tokens_TD = (self.w_task @ self.w_query) @ self.w_key.transpose(-1, -2)
        is_learned = self.normalization == "learned"
        if is_learned:
            # Of the tokens, not of the scores, of which there are T x B times as many numbers.
            tokens_TD = tokens_TD * (self.alpha / math.sqrt(width) * (-self.log_temperature).exp())
        both = torch.cat([tokens_TD, readers_RD], dim=-2)
        rows = both.shape[-2]
        both = both.unsqueeze(-3).expand(*both.shape[:-2], tasks, rows, width)
        scores_STB, seen_SRB = torch.matmul(both, x_TDB).split([tasks, rows - tasks], dim=-2)
        if is_learned:
            own_STB = torch.diag_embed(self.own_bias).unsqueeze(-1)
            return torch.softmax(scores_STB + own_STB, dim=-3), seen_SRB
        weights_STB = attention_weights(
            scores_STB,
            alpha=self.alpha,
            normalization=self.normalization,
            self_bias=self.self_bias,
        )
        return weights_STB, seen_SRB
