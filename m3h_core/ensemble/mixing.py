"""How much each member of an ensemble counts, task by task, as the validation rows bear out.

Members are unlike learners of the same outputs; each hands over what it says of the validation
rows. Shapes: E members, L mixtures that are tried, G models, T tasks, O outputs, m validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from m3h_core.data.training_data import LEAST_TO_JUDGE
from m3h_core.model.m3h import M3H

# Of the network and the ridge, in this order: what is tried. The first stands without validation
# labels.
NETWORK_AND_RIDGE = ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0))


def choose_mixture(
    members: Sequence[Tensor],
    loss_fn: Callable[[Tensor], Tensor],
    evidence_GT: Tensor,
    mixtures: Sequence[Sequence[float]] = NETWORK_AND_RIDGE,
) -> Tensor:
    """The weight [E, G, T] of each member: for each task those that make its validation loss least.

    ``members`` holds the outputs [G, O, m] of each, in logits or standardised units, and
    ``loss_fn`` gives the losses [G, T] of such outputs. Where the ``evidence_GT`` to judge by
    (:attr:`TrainingData.valid_evidence`) is below ``LEAST_TO_JUDGE``, the first mixture stands.

    >>> right = torch.tensor([[[1.0, -1.0]]])
    >>> wrong = -right
    >>> def loss_fn(outputs):
    ...     return (outputs - right).square().mean(-1)
    >>> choose_mixture([wrong, right], loss_fn, torch.tensor([[50]])).flatten()
    tensor([0., 1.])
    >>> choose_mixture([wrong, right], loss_fn, torch.tensor([[5]])).flatten()
    tensor([1., 0.])
    """
    weights_LE = torch.tensor(mixtures, dtype=members[0].dtype, device=members[0].device)
    losses = []
    for weights_E in weights_LE:
        mixed = sum(weight * outputs for weight, outputs in zip(weights_E, members, strict=True))
        assert isinstance(mixed, Tensor)
        losses.append(loss_fn(mixed))
    best_GT = torch.stack(losses).argmin(0)
    best_GT[evidence_GT.to(best_GT.device) < LEAST_TO_JUDGE] = 0
    return weights_LE[best_GT].movedim(-1, 0)


@torch.no_grad()
def fold_ridge(model: M3H, share_O: Tensor, bias_O: Tensor, adding: float) -> None:
    """Make a model the mixture of its network, by ``share_O``, and its ridge, in place.

    ``bias_O`` is the ridge's; ``adding`` the share of the network's members that learned what the
    ridge leaves over, so that the network itself holds so much of it. Both members end in a linear
    step, which is why the mixture is again a model of the same form: it costs nothing to predict.
    """
    assert model.linear is not None
    heads = model.network.heads
    model.linear.weight.mul_((1 - share_O + share_O * adding).unsqueeze(1))
    heads.weight.mul_(share_O.unsqueeze(-1))
    heads.bias.copy_(bias_O + share_O * (heads.bias - bias_O))
