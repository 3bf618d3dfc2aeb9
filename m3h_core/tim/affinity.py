"""Affinity: what the gradients of the joint model alone say of the tasks' interaction.

How much of task i's loss a step on task j alone takes away, averaged over the training of the joint
model (the look-ahead of TAG, Fifty et al. 2021). A hint, and no evidence. Row i is the task that is
helped or harmed, column j the other; T tasks.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.files import fingerprint, read_tensors, write_tensors
from m3h_core.training.fit import finish
from m3h_core.training.fitted import FittedModel
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import Trainer

_EVERY = 3  # Epochs from one look ahead to the next.
_LOOK_AT = 256  # Training rows whose gradient is the step.


def measure_affinity(
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
