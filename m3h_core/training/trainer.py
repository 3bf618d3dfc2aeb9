"""Training: one model, or many of equal layout at once, as one wide model.

Shapes: G models in parallel, M members of a model, T tasks of one model, B rows of a batch, F
inputs, O outputs of one model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3h_core.data.tasks import TaskSpec
from m3h_core.files import fingerprint
from m3h_core.model.m3h import M3H
from m3h_core.training.checkpoint import Checkpoint
from m3h_core.training.distributed import ProcessGroup
from m3h_core.training.prepared import Prepared
from m3h_core.training.state import TrainingState
from m3h_core.training.weighting import BatchLosses, new_weighting
from m3h_core.training.wide import WideModel

OnEpoch = Callable[[dict[str, Any]], None]

# A small cohort is read in smaller batches, down to the smallest, so that an epoch has so many
# steps: few rows in few large steps would not be learned before the epochs are over.
_STEPS = 16
_SMALLEST_BATCH = 16
# Below this share of running models, those that have stopped are taken out of the wide model.
_COMPACT_BELOW = 0.8


class Stopped(Exception):
    """Training was asked to end before it was done."""


class Trainer:
    """Trains G models of equal layout and configuration as one wide model, in place.

    Models do not touch each other: each has its own loss, its own early stopping and its own best
    weights. ``on_stop`` receives the number of models each time some have stopped; ``checkpoint``
    is a folder; ``stop`` is asked after each batch; ``device`` stands above the configuration's.
    """

    def __init__(
        self,
        prepared: Prepared,
        models: Sequence[M3H],
        on_epoch: OnEpoch | None = None,
        on_stop: Callable[[int], None] | None = None,
        checkpoint: Path | None = None,
        stop: Callable[[], bool] | None = None,
        distributed: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.models = list(models)
        self.config = models[0].config
        self.on_epoch = on_epoch
        self.on_stop = on_stop
        self.stop = stop
        self.processes = ProcessGroup(distributed)
        self.wide = WideModel(prepared, models, device or self.config.torch_device)
        weighting = new_weighting(self.config, self.wide.objective)
        self.state = TrainingState(self.wide, weighting, prepared.data.modalities)
        self.until_next: tuple = ()
        self.checkpoint = None
        if checkpoint:
            tasks = [list(map(TaskSpec.to_dict, model.tasks)) for model in models]
            key = fingerprint(prepared.fingerprint(), tasks, self.config.to_dict())
            self.checkpoint = Checkpoint(checkpoint, key, self.processes.is_first)

    def run(self) -> None:
        """Train until every model has stopped; the models then hold their best weights."""
        state = self.state
        if self.checkpoint and (kept := self.checkpoint.read(self.wide.device)):
            state.load(*kept)
        while state.active and state.epoch < self.config.epochs:
            train_GT = self._train_epoch()
            state.weights.follow(state.network, state.epoch)
            valid_GT = self.wide.valid_losses(state.weights.average)
            valid_GT = self.processes.broadcast(valid_GT)
            report = self._report(train_GT[0].tolist(), valid_GT[0].tolist())
            self._stop_early(valid_GT)
            state.epoch += 1
            is_done = state.epoch == self.config.epochs or not state.active
            if self.checkpoint and (is_done or self.checkpoint.is_due):
                self.checkpoint.write(state.tensors(), state.about())
            if self.on_epoch:
                self.on_epoch(report)
        if self.on_stop and state.active:
            self.on_stop(len(state.active))
        self._hand_over()

    def _train_epoch(self) -> Tensor:
        """One pass over the training rows, or what is left of it; returns the mean losses [G,
        T].
        """
        state = self.state
        if not state.batch:
            state.start_epoch()
        n = len(state.order)
        size = min(self.config.batch_size, max(_SMALLEST_BATCH, n // _STEPS))
        batches = torch.tensor_split(state.order, max(1, round(n / size)))
        for rows in batches[state.batch :]:
            is_stopped = self._train_batch(rows)
            state.batch += 1
            if is_stopped:
                if self.checkpoint:
                    self.checkpoint.write(state.tensors(), state.about())
                raise Stopped
        state.batch = 0
        return state.loss_GT / n

    def _train_batch(self, rows: Tensor) -> bool:
        """One step along the gradient of a batch; returns whether training was asked to stop."""
        state = self.state
        wide = self.wide
        # The draws are those of the whole batch, so that it is the same one however many processes
        # share it.
        x_BF, lost = state.draws.corrupt(wide.x_train_nF[rows])
        drop = state.draws.dropout(len(rows))
        part = self.processes.own_slice(len(rows))
        own_rows = rows[part]
        share = (part.stop - part.start) / len(rows)
        offset_GOB = wide.train_offset(own_rows, None if lost is None else lost[part])
        own_drop = [mask[..., part] for mask in drop]
        activations = wide.run(state.network, x_BF[part], offset_GOB, own_drop)
        losses_GMTB = wide.objective.train_losses(activations.outputs, own_rows)
        weights_G1TB = wide.objective.train_weights(own_rows)
        loss_GMT = (losses_GMTB * weights_G1TB).sum(-1) / len(rows)
        clusters = state.clusters.loss(activations, own_rows)
        batch = BatchLosses(
            loss_GMT, weights_G1TB, share, None if clusters is None else clusters * share
        )
        state.weighting(batch).backward()
        loss_GMT = loss_GMT.detach()
        is_stopped = self.processes.sum_in_place(
            [*state.optimizer.gradients(), loss_GMT], bool(self.stop and self.stop())
        )
        state.optimizer.step()
        state.loss_GT += loss_GMT.mean(1) * len(rows)
        # Memory that is given back and asked for again at every step costs 5% of the time.
        self.until_next = (x_BF, drop, activations, losses_GMTB, weights_G1TB)
        return is_stopped

    def _stop_early(self, valid_GT: Tensor) -> None:
        """Keep the weights of the models that improved; let go of those that no longer do."""
        state = self.state
        losses = self.wide.objective.overall(valid_GT)
        improved, going = state.stopping.judge(state.epoch, state.active, losses)
        if improved:
            state.weights.take([state.active[at] for at in improved], improved)
        if len(going) < _COMPACT_BELOW * len(state.active):
            if self.on_stop:
                self.on_stop(len(state.active) - len(going))
            state.keep(going)

    def _hand_over(self) -> None:
        """Give the models their best weights, and clusters the centres of the embedding under
        these.
        """
        self.until_next = ()
        best = self.state.weights.best
        self.state.clusters.start(best)
        best.cpu()
        for i, model in enumerate(self.models):
            model.network.put([0], best, [i])

    def _report(self, train_T: list[float], valid_T: list[float]) -> dict[str, Any]:
        """What ``on_epoch`` receives, of the first model that runs."""
        report: dict[str, Any] = {
            "epoch": self.state.epoch,
            "epochs": self.config.epochs,
            "train_loss": sum(train_T),
            "valid_loss": sum(loss for loss in valid_T if not math.isnan(loss)),
        }
        for task, train, valid in zip(self.models[0].tasks, train_T, valid_T, strict=True):
            report |= {f"{task.name}/train_loss": train, f"{task.name}/valid_loss": valid}
        return report
