"""Hints: what the joint model alone says of the tasks' interaction. Cheap, and no evidence.

- attention: what task i takes from task j, in the joint model.
- affinity: how much of task i's loss a step on task j alone takes away, averaged over the training
  of the joint model (the look-ahead of TAG, Fifty et al. 2021).
- projection: the joint model is linearised in its shared layer, the gradients of its outputs are
  randomly projected, and the tasks are fitted again in this space, alone and in pairs (in the
  manner of Grad-TAG, Li et al. 2024).

Row i is the task that is helped or harmed, column j the other. Shapes: T tasks, O outputs, F
inputs, H units of the shared layer, N rows, d dimensions of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.data.cohort import TRAIN, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.files import fingerprint, read_tensors, write_tensors
from m3h_core.model.m3h import M3H
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.training.fit import finish
from m3h_core.training.fitted import FittedModel
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import Trainer

_EVERY = 3  # Epochs from one look ahead to the next.
_LOOK_AT = 256  # Training rows whose gradient is the step.
_DIMENSIONS = 256
_STRENGTHS = (0.1, 1.0, 10.0)
_ROWS_AT_ONCE = 4096


def attention(model: FittedModel, cohort: Cohort) -> np.ndarray:
    """Mean attention [T, T] over the training rows."""
    return model.attention(cohort, cohort.rows(TRAIN))


# Look-ahead ---------------------------------------------------------------------------------------


def affinity(
    prepared: Prepared, config: FitConfig, resume: str | Path | None = None
) -> tuple[np.ndarray, FittedModel]:
    """The share [T, T] of each task's validation loss that a step on each other task takes away,
    and the joint model.

    The step is the one that the optimiser would take on a training batch of task j alone, on the
    shared weights. ``resume`` is a folder as in :func:`m3h_core.fit_many`.
    """
    model = prepared.new_model(prepared.data.tasks, config)
    key = fingerprint(prepared.fingerprint(), config.to_dict())
    file = Path(resume) / f"affinity-{key}.safetensors" if resume else None
    if file and file.exists():
        tensors, _ = read_tensors(file)
        matrix = tensors.pop("matrix").numpy()
        model.load_state_dict(tensors)
        return matrix, finish([model], prepared)[0]
    rows = torch.Generator().manual_seed(config.seed)
    looks: list[np.ndarray] = []

    def look(report: dict[str, Any]) -> None:
        # What has stopped early has no weights to step on.
        if report["epoch"] % _EVERY == 0 and trainer.state.active:
            drawn = torch.randperm(len(prepared.data.x_train), generator=rows)[:_LOOK_AT]
            looks.append(_look_ahead(trainer, drawn.to(trainer.wide.device)))

    trainer = Trainer(prepared, [model], on_epoch=look)
    trainer.run()
    matrix = np.mean(looks, axis=0)
    if file:
        write_tensors(file, model.state_dict() | {"matrix": torch.from_numpy(matrix)}, {})
    return matrix, finish([model], prepared)[0]


def _look_ahead(trainer: Trainer, rows: Tensor) -> np.ndarray:
    """1 minus the validation loss of each task after a step on each task, over that before."""
    wide = trainer.wide
    now = deepcopy(trainer.state.network)
    stepped = deepcopy(now)
    shared = now.shared_parameters()
    losses_T = wide.train_losses(now, rows)[0]
    before_T = wide.valid_losses(now)[0]
    columns = []
    for loss in losses_T:
        gradients = torch.autograd.grad(
            loss, list(shared.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(shared, gradients, strict=True):
            change = 0.0
            if gradient is not None:
                change = trainer.state.optimizer.change(f"network.{name}", gradient)
            stepped.get_parameter(name).data = shared[name].detach() - change
        columns.append(1 - wide.valid_losses(stepped)[0] / before_T)
    return torch.stack(columns, dim=1).double().cpu().numpy()


# Projection ---------------------------------------------------------------------------------------


def projection(model: FittedModel, data: TrainingData) -> np.ndarray:
    """The share [T, T] of each task's squared validation error that fitting it with another takes
    away.

    Every fit is one Newton step from the joint model, in d random dimensions of the gradient of the
    shared layer: T (T + 1) / 2 ridge regressions of that size. NaN for a task without a validation
    label.
    """
    network = model.model
    train = _Linearized.of(network, data, valid=False)
    valid = _Linearized.of(network, data, valid=True)
    n = len(model.tasks)
    at = np.arange(len(model.tasks))
    size = np.mean([np.trace(part) for part in train.curvature_Tdd]) / _DIMENSIONS
    best: tuple[float, np.ndarray] | None = None
    for strength in _STRENGTHS:
        penalty = np.eye(_DIMENSIONS) * max(size * strength, 1e-12)
        alone_Td = np.stack(
            [np.linalg.solve(train.curvature_Tdd[i] + penalty, train.pull_Td[i]) for i in at]
        )
        alone_T = np.array([valid.error(i, alone_Td[i : i + 1])[0] for i in at])
        if best is not None and np.nansum(alone_T) >= best[0]:
            continue
        matrix = np.zeros((n, n))
        for i in at:
            pairs_Td = np.linalg.solve(
                train.curvature_Tdd[i] + train.curvature_Tdd + penalty,
                (train.pull_Td[i] + train.pull_Td)[..., None],
            )[..., 0]
            matrix[i] = 1 - valid.error(i, pairs_Td) / alone_T[i]
        np.fill_diagonal(matrix, 0)
        best = (float(np.nansum(alone_T)), matrix)
    assert best is not None
    return best[1]


class _Linearized:
    """A joint model as a linear one in d dimensions, on some rows.

    ``curvature_Tdd`` and ``pull_Td`` are each task's normal equations; ``error`` its squared error
    after a step.
    """

    def __init__(self, n_tasks: int) -> None:
        self.curvature_Tdd = np.zeros((n_tasks, _DIMENSIONS, _DIMENSIONS))
        self.pull_Td = np.zeros((n_tasks, _DIMENSIONS))
        # Of the squared error after a step b: left - 2 pull.b + b.bend.b, its terms.
        self.left_T = np.zeros(n_tasks)
        self.slope_Td = np.zeros((n_tasks, _DIMENSIONS))
        self.bend_Tdd = np.zeros((n_tasks, _DIMENSIONS, _DIMENSIONS))

    def error(self, task: int, steps_nd: np.ndarray) -> np.ndarray:
        """The squared error [n] of a task after each of n steps, NaN where no row is labelled."""
        bent = np.einsum("nd,de,ne->n", steps_nd, self.bend_Tdd[task], steps_nd)
        error = self.left_T[task] - 2 * steps_nd @ self.slope_Td[task] + bent
        return error if self.left_T[task] > 0 else np.full(len(steps_nd), np.nan)

    @classmethod
    def of(cls, network: M3H, data: TrainingData, valid: bool) -> _Linearized:
        """Read off the validation or the training rows."""
        x = data.x_valid if valid else data.x_train
        targets, weights = (
            (data.valid_targets, data.valid_mask) if valid else (data.targets, data.weights)
        )
        components = data.valid_components if valid else data.components
        linearized = cls(len(network.tasks))
        generator = torch.Generator().manual_seed(network.config.seed)
        by_input, by_unit = (
            torch.randint(0, 2, (size, _DIMENSIONS), generator=generator).to(x) * 2 - 1
            for size in (x.shape[1], network.layout.first)
        )
        for start in range(0, len(x), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            signals_OBH = _sensitivities(network, x[rows])
            outputs_OB = network.own_outputs(x[rows]).detach()
            read_Bd = (x[rows] @ by_input) / _DIMENSIONS**0.5
            for i, (task, part) in enumerate(
                zip(network.tasks, network.layout.slices, strict=True)
            ):
                residual_OB, slope_OB = _residual(
                    task, outputs_OB[part], targets[i, rows], components[:, rows]
                )
                for residual_B, slope_B, signals_BH in zip(
                    residual_OB, slope_OB, signals_OBH[part], strict=True
                ):
                    terms = (
                        read_Bd * (signals_BH @ by_unit),
                        residual_B,
                        slope_B,
                        weights[i, rows],
                    )
                    linearized._add(i, *(term.double().cpu().numpy() for term in terms))
        return linearized

    def _add(
        self,
        i: int,
        phi_Bd: np.ndarray,
        residual: np.ndarray,
        slope: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        self.curvature_Tdd[i] += (phi_Bd * (weight * slope)[:, None]).T @ phi_Bd
        self.pull_Td[i] += phi_Bd.T @ (weight * residual)
        scaled_Bd = phi_Bd * slope[:, None]
        self.left_T[i] += float((weight * residual**2).sum())
        self.slope_Td[i] += scaled_Bd.T @ (weight * residual)
        self.bend_Tdd[i] += (scaled_Bd * weight[:, None]).T @ scaled_Bd


def _sensitivities(model: M3H, x_BF: Tensor) -> Tensor:
    """The gradient [O, B, H] of each output in what enters the shared layer's units."""
    first = model.network.trunk.first
    entering_BH = x_BF @ first.weight[0].T + first.bias[0]
    entering_BH = entering_BH.detach().requires_grad_()
    outputs_OB = model.network.above(entering_BH.T[None]).outputs.mean(0)
    return torch.stack(
        [
            torch.autograd.grad(output.sum(), entering_BH, retain_graph=True)[0]
            for output in outputs_OB
        ]
    )


def _residual(
    task: TaskSpec, outputs_OB: Tensor, target_B: Tensor, components_CB: Tensor
) -> tuple[Tensor, Tensor]:
    """What is left of the target [O, B], and how fast the prediction moves with the output."""
    if task.problem == "clustering":
        return components_CB - outputs_OB, torch.ones_like(outputs_OB)
    if task.problem == "regression":
        return target_B[None] - outputs_OB, torch.ones_like(outputs_OB)
    if task.problem == "binary":
        predicted = torch.sigmoid(outputs_OB)
        aim = target_B[None]
    else:
        predicted = torch.softmax(outputs_OB, dim=0)
        aim = (target_B[None] == torch.arange(len(outputs_OB), device=target_B.device)[:, None]).to(
            outputs_OB
        )
    return aim - predicted, predicted * (1 - predicted)


# Over the seeds of an evaluator -------------------------------------------------------------------


def attention_by_seed(evaluator: TaskSetEvaluator, joint: Sequence[FittedModel]) -> np.ndarray:
    """:func:`attention` [S, T, T] of the joint model of each seed."""
    return np.stack([attention(model, evaluator.cohort) for model in joint])


def projection_by_seed(evaluator: TaskSetEvaluator, joint: Sequence[FittedModel]) -> np.ndarray:
    """:func:`projection` [S, T, T] of the joint model of each seed."""
    return np.stack(
        [projection(model, evaluator.bank.prepared(model.config).data) for model in joint]
    )
