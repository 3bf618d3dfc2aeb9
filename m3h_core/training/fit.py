"""``fit``: one model on one cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.ensemble.borrowing import borrow
from m3h_core.model.m3h import M3H
from m3h_core.training.fitted import FittedModel
from m3h_core.training.trainer import OnEpoch, Trainer


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
    data = TrainingData.of(cohort, tasks, config)
    model = data.new_model(tasks, config)
    checkpoint = Path(resume) if resume else None
    Trainer(
        data, [model], on_epoch, checkpoint=checkpoint, stop=stop, distributed=distributed
    ).run()
    return to_fitted_model(model, data)


def to_fitted_model(model: M3H, data: TrainingData) -> FittedModel:
    """A trained model, after its tasks have borrowed from each other."""
    if model.config.borrowing:
        borrow(model, data)
    return FittedModel(model.eval().requires_grad_(False), data.units(model.tasks))
