"""``fit``: one model on one cohort.

Shapes: G models in parallel, M members of a model, K = G x M networks, T tasks and O outputs of one
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.ensemble.borrowing import borrow
from m3h_core.ensemble.mixing import choose_mixture, fold_ridge
from m3h_core.model.m3h import M3H
from m3h_core.training.fitted import FittedModel
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import OnEpoch, Trainer
from m3h_core.training.wide import WideModel


def fit(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    config: FitConfig | None = None,
    on_epoch: OnEpoch | None = None,
    resume: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    distributed: bool = False,
) -> FittedModel:
    """Train one model on the training split, stopped early on the validation split.

    ``on_epoch`` receives after each epoch {"epoch" (from 0), "epochs", "train_loss", "valid_loss",
    and "<task>/train_loss", "<task>/valid_loss" for each task}. With ``resume``, a folder, the
    state is kept there as it goes: the same call after a kill goes on where it was and ends with
    the same numbers. A state that belongs to other data, tasks or configuration is not used.
    ``stop`` is asked after each batch: where it says yes, the state is kept and `Stopped` is
    raised. With ``distributed``, the processes of torch.distributed's default group train one
    model, each on a part of every batch; all return it, the first alone writes. Without a label in
    the validation split all epochs are run.
    """
    config = config or FitConfig()
    prepared = Prepared.of(cohort, tasks, config)
    model = prepared.new_model(tasks, config)
    checkpoint = Path(resume) if resume else None
    trainer = Trainer(
        prepared, [model], on_epoch, checkpoint=checkpoint, stop=stop, distributed=distributed
    )
    trainer.run()
    return finish([model], prepared)[0]


def finish(
    models: Sequence[M3H], prepared: Prepared, device: torch.device | None = None
) -> list[FittedModel]:
    """Trained models of equal layout, after each has been mixed with the ridge and its tasks have
    borrowed from each other.
    """
    if prepared.ridge is not None:
        _mix_with_ridge(models, prepared, device or models[0].config.torch_device)
    for model in models:
        if model.config.borrowing:
            borrow(model, prepared.data)
    return [
        FittedModel(model.eval().requires_grad_(False), prepared.data.units(model.tasks))
        for model in models
    ]


@torch.no_grad()
def _mix_with_ridge(models: Sequence[M3H], prepared: Prepared, device: torch.device) -> None:
    """Mix each task's network with its ridge as its validation rows bear out, in place.

    So a task whose network is of no use falls back to its line.
    """
    wide = WideModel(prepared, models, device)
    offsets = wide.offsets
    assert offsets is not None
    none_GO0 = offsets.of_valid(slice(0))
    network = [none_GO0]
    ridge = [none_GO0]
    for rows in wide.valid_parts():
        outputs_KOm = wide.run(wide.network, wide.x_valid_mF[rows]).outputs
        mean_GOm = outputs_KOm.view(len(models), -1, *outputs_KOm.shape[1:]).mean(1)
        offset_GOm = offsets.of_valid(rows)
        network.append(mean_GOm + offsets.share * offset_GOm)
        ridge.append(offset_GOm + offsets.bias_GO.unsqueeze(-1))

    def loss_fn(mixed_GOm: Tensor) -> Tensor:
        return wide.sum_valid_losses((rows, mixed_GOm[..., rows]) for rows in wide.valid_parts())

    # A clustering task has no ridge: there is nothing to choose.
    evidence_GT = prepared.data.valid_evidence[wide.objective.slots_GT.cpu()]
    evidence_GT[:, list(models[0].layout.clustering)] = 0
    members = [torch.cat(network, dim=-1), torch.cat(ridge, dim=-1)]
    share_GT = choose_mixture(members, loss_fn, evidence_GT)[0]
    share_GO = share_GT[:, wide.network.heads.owner].cpu()
    for model, share_O, bias_O in zip(models, share_GO, offsets.bias_GO.cpu(), strict=True):
        fold_ridge(model, share_O, bias_O, offsets.share)
