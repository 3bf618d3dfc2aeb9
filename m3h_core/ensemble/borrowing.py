"""Borrowing: a task with few labels learns from what the model says of tasks with many.

A shared trunk alone gives a task of 150 labels little: its head has to find, among all that the
trunk computes, what 150 rows can show. The other tasks' predictions are a short and meaningful
summary of a patient to start from. So a second ridge regression reads the inputs and these
predictions side by side, and the task takes as much of it as its validation rows bear out, nothing
where it would not help. Tasks with labels enough do not borrow: on their own training rows, the
predictions of a near relative are as good as the answer.

Ours, not the paper's. Shapes: n training rows, m validation rows, F inputs, O outputs of the model,
S of the lenders.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import LEAST_TO_JUDGE, TrainingData
from m3h_core.ensemble.ridge import LinearPath, fit_linear_paths
from m3h_core.losses import multiclass_loss, scalar_loss
from m3h_core.model.m3h import M3H

# A lender has at least so many times the borrower's labels.
_TIMES = 2
# All lenders' outputs together count so many times as much, before any label is seen, as all
# inputs.
_CREDIT = 2.0
# Of fewer labels nothing is learned.
_LEAST_LABELS = 10
_ROWS_AT_ONCE = 1024
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def borrow(model: M3H, data: TrainingData) -> None:
    """Give each task of a trained model that has few labels what it can borrow, in place."""
    names = [task.name for task in data.tasks]
    at = [names.index(task.name) for task in model.tasks]
    labels_T = (data.weights[at] > 0).sum(1)
    valid_T = data.valid_evidence[at]
    lendable = [i for i in range(len(at)) if i not in model.layout.clustering]
    outputs: tuple[Tensor, Tensor] | None = None
    for i in lendable:
        lenders = [j for j in lendable if labels_T[j] >= _TIMES * labels_T[i]]
        if lenders and labels_T[i] >= _LEAST_LABELS and valid_T[i] >= LEAST_TO_JUDGE:
            outputs = outputs or (_outputs(model, data.x_train), _outputs(model, data.x_valid))
            _borrow_one(model, data, i, at[i], lenders, *outputs)


@torch.no_grad()
def _borrow_one(
    model: M3H,
    data: TrainingData,
    task: int,
    row: int,
    lenders: list[int],
    train_On: Tensor,
    valid_Om: Tensor,
) -> None:
    part = model.layout.slices[task]
    spec = model.tasks[task]
    columns = [
        o for j in lenders for o in range(model.layout.slices[j].start, model.layout.slices[j].stop)
    ]
    mean_S = train_On[columns].mean(1)
    scale_S = train_On[columns].std(1).clamp_min(1e-6)
    credit_S = (_CREDIT * data.x_train.shape[1] / len(columns)) ** 0.5 / scale_S
    known_n = data.weights[row] > 0
    lent = (train_On[columns][:, known_n].T - mean_S) * credit_S
    inputs = torch.cat([data.x_train[known_n], lent], dim=1).double().numpy()
    target = data.targets[row : row + 1, known_n].double().numpy()
    path = fit_linear_paths([spec], inputs, target, np.ones(target.shape, dtype=bool))[0]
    assert path is not None
    weights_OF, weights_OS, bias_O = _split_weights(path, data.x_train.shape[1], mean_S, credit_S)
    borrowed_Om = weights_OF @ data.x_valid.T + weights_OS @ valid_Om[columns] + bias_O.unsqueeze(1)
    share = _best_share(
        spec, valid_Om[part], borrowed_Om, data.valid_targets[row], data.valid_mask[row] > 0
    )
    assert model.loans is not None
    model.loans.outputs[part, part] *= 1 - share
    model.loans.outputs[part, columns] += share * weights_OS
    model.loans.inputs[part] = share * weights_OF
    model.loans.bias[part] = share * bias_O


@torch.no_grad()
def _outputs(model: M3H, x: Tensor) -> Tensor:
    return torch.cat([model.own_outputs(part) for part in x.split(_ROWS_AT_ONCE)], dim=1)


def _split_weights(
    path: LinearPath, features: int, mean_S: Tensor, credit_S: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A path's weights [O, F] for the inputs, [O, S] for the lenders' own outputs, and bias [O]."""
    weights = torch.tensor(path.weights_OF).to(mean_S)
    on_outputs = weights[:, features:] * credit_S
    return (
        weights[:, :features],
        on_outputs,
        torch.tensor(path.bias_O).to(mean_S) - on_outputs @ mean_S,
    )


def _best_share(
    task: TaskSpec, own_Om: Tensor, borrowed_Om: Tensor, target_m: Tensor, valid_m: Tensor
) -> float:
    """How much of what is borrowed makes the validation loss least."""

    def loss(share: float) -> float:
        mixed = (1 - share) * own_Om[:, valid_m] + share * borrowed_Om[:, valid_m]
        if task.problem == "multiclass":
            return float(multiclass_loss(mixed, target_m[valid_m]).mean())
        return float(
            scalar_loss(
                mixed[0], target_m[valid_m], torch.tensor(task.problem == "regression")
            ).mean()
        )

    return min(_SHARES, key=loss)
