"""How the losses of the tasks are weighed against each other while a model trains.

"equal" is their sum. "uncertainty" (Kendall, Gal and Cipolla, 2018) learns a variance for each
task: a loss that stays high is taken as noise and counts less. The others combine the gradients of
the tasks at each step, so that where these are in conflict no task pays for the rest; they are
TorchJD's, which the extra ``gradients`` installs.

Shapes: G models, M members, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

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
