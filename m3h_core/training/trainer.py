"""Training: one model, or many of equal layout at once; early stopping, checkpoints.

Shapes: N samples, n training rows, B batch, F inputs, G models trained side by side, M members of a
model, K = G x M networks, T tasks and O outputs of one model.

Every random draw (order of rows, dropout) comes from the configuration's seed alone, never from a
model's tasks: so a model sees the same draws whether it is trained alone or beside others, and
models of one seed are compared on equal terms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# The function, not the class: the class imports PyTorch's compiler, which costs seconds.
from torch.optim.adamw import adamw

from m3h_core.data.k_means import k_means_centres
from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import LEAST_TO_JUDGE, TrainingData
from m3h_core.files import fingerprint, read_tensors, write_tensors
from m3h_core.losses import (
    clustering_loss,
    multiclass_loss,
    scalar_loss,
    sharpen,
    soft_assignment,
)
from m3h_core.model.m3h import M3H, Activations, attend, list_owners, run
from m3h_core.training.distributed import ProcessGroup
from m3h_core.training.weighting import AGGREGATORS, by_uncertainty, gradient_method

OnEpoch = Callable[[dict[str, Any]], None]

_ROWS_AT_ONCE = 1024
# What "uncertainty" learns: a log-variance [K, T], no part of the model.
_LOG_VARIANCE = "log_variance"
# A small cohort is read in smaller batches, down to the smallest, so that an epoch has so many
# steps.
_STEPS = 16
_SMALLEST_BATCH = 16
# The shares that a task's network may have beside its linear path; the first is what stands without
# validation labels.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# A checkpoint is written when it costs at most a twentieth of the time since the last one.
_CHECKPOINT_SHARE = 20
# Below this share of running models, those that have stopped are taken out of the wide model.
_COMPACT_BELOW = 0.8


class Stopped(Exception):
    """Training was asked to end before it was done."""


class Moments(NamedTuple):
    """AdamW's state of one parameter."""

    first: Tensor
    second: Tensor
    step: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Moments:
        """The state before the first step."""
        return cls(
            torch.zeros_like(value), torch.zeros_like(value), torch.zeros((), device=value.device)
        )


class Trainer:
    """Trains G models of equal layout and configuration as one wide model, in place.

    Models do not touch each other: each has its own loss, its own early stopping and its own best
    weights. ``on_stop`` receives the number of models each time some have stopped. ``device``
    stands above the configuration's.
    """

    def __init__(
        self,
        data: TrainingData,
        models: Sequence[M3H],
        on_epoch: OnEpoch | None = None,
        on_stop: Callable[[int], None] | None = None,
        checkpoint: Path | None = None,
        stop: Callable[[], bool] | None = None,
        distributed: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.data = data
        self.models = list(models)
        self.on_epoch = on_epoch
        self.on_stop = on_stop
        self.stop = stop
        self.processes = ProcessGroup(distributed)
        self.config = models[0].config
        self.layout = models[0].layout
        if self.config.weighting in AGGREGATORS and len(models) > 1:
            raise ValueError(f"a model of the weighting {self.config.weighting!r} is trained alone")
        if self.config.weighting in AGGREGATORS and self.processes.size > 1:
            raise ValueError(
                f"a model of the weighting {self.config.weighting!r} is trained by one process"
            )
        self.descend = (
            gradient_method(self.config.weighting) if self.config.weighting in AGGREGATORS else None
        )
        self.device = device or self.config.torch_device
        # Few rows in few large steps would not be learned before the epochs are over.
        self.batch_size = min(
            self.config.batch_size, max(_SMALLEST_BATCH, len(data.x_train) // _STEPS)
        )
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self.checkpoint = checkpoint / "training.safetensors" if checkpoint else None
        self.written = (-math.inf, 0.0)

        at = {task.name: i for i, task in enumerate(data.tasks)}

        def of_tasks(value: Callable[[TaskSpec], Any]) -> Tensor:
            """A table [G, T] of a value of each model's tasks."""
            return self._tensor([list(map(value, model.tasks)) for model in models])

        self.slots = of_tasks(lambda task: at[task.name])
        self.regression = of_tasks(lambda task: task.problem == "regression")
        self.categorical = of_tasks(lambda task: task.problem in ("binary", "multiclass"))
        self.x_train = data.x_train.to(self.device)
        self.x_valid = data.x_valid.to(self.device)
        self.targets = data.targets.to(self.device)
        self.weights = data.weights.to(self.device)
        self.valid_targets = data.valid_targets.to(self.device)
        self.valid_mask = data.valid_mask.to(self.device)
        self.linear_slots, self.linear_train, self.linear_valid, self.linear_shares = self._linear()
        # Every other member learns what the linear path leaves over, the rest learn all: they err
        # in different ways.
        self.linear_members = self._tensor([1.0 - i % 2 for i in range(self.config.members)]).view(
            1, -1, 1, 1
        )
        self.components = data.components.to(self.device)
        self.valid_components = data.valid_components.to(self.device)

        self.of_all = (self.slots, self.regression, self.categorical, self.linear_slots)

        # The wide model: parameter [K, ...] of all running models, its moving average, and each
        # model's best so far.
        self.active = list(range(len(models)))
        self.params: dict[str, Tensor] = {}
        for name, _ in models[0].named_parameters():
            if not name.startswith("centres_"):
                values = torch.cat([getattr(model, name).detach() for model in models])
                self.params[name] = values.to(self.device).requires_grad_()
        if self.config.weighting == "uncertainty":
            shape = (len(models) * self.config.members, self.layout.n_tasks)
            start = torch.zeros(shape, dtype=self.config.dtype, device=self.device)
            self.params[_LOG_VARIANCE] = start.requires_grad_()
        self.moments = {name: Moments.of(value) for name, value in self.params.items()}
        self.average = {name: value.detach().clone() for name, value in self.params.items()}
        self.best = {name: value.clone() for name, value in self.average.items()}
        self.best_loss = [math.inf] * len(models)
        self.best_epoch = [-1] * len(models)
        self.epoch = 0
        # Of the epoch under way: the order of its rows [n], the batches done, and the sum of their
        # losses [G, T].
        self.order = torch.zeros(0)
        self.batch = 0
        self.loss_GT = torch.zeros(0)
        self.cluster_targets: dict[int, Tensor] = {}

    def run(self) -> None:
        """Train until every model has stopped; the models then hold their best weights."""
        self.key = self._key() if self.checkpoint else ""
        if self.checkpoint and self.checkpoint.exists():
            self._restore()
        while self.active and self.epoch < self.config.epochs:
            if self.layout.clustering and not self.batch:
                self._refresh_clusters()
            train_GT = self._train_epoch()
            self._update_average()
            valid_GT = self.processes.broadcast(self.valid_losses(self.average))
            report = self._report(train_GT[0].tolist(), valid_GT[0].tolist())
            self._stop_early(valid_GT)
            self.epoch += 1
            if self.checkpoint:
                self._save_at_times()
            if self.on_epoch:
                self.on_epoch(report)
        if self.on_stop and self.active:
            self.on_stop(len(self.active))
        self._hand_over()

    # One epoch ------------------------------------------------------------------------------------

    def _train_epoch(self) -> Tensor:
        """One pass over the training rows; returns the mean losses [G, T]."""
        n = len(self.x_train)
        if not self.batch:
            self.order = torch.randperm(n, generator=self.generator, device=self.device)
            self.loss_GT = torch.zeros(
                self.slots.shape, dtype=self.config.dtype, device=self.device
            )
        for rows in torch.tensor_split(self.order, max(1, round(n / self.batch_size)))[
            self.batch :
        ]:
            # The draws are those of the whole batch, so that it is the same one however many
            # processes share it.
            x_BF, lost_BM = self._corrupted(self.x_train[rows])
            drop = self._dropout(len(rows))
            own_part = self.processes.own_slice(len(rows))
            own_rows = rows[own_part]
            share = (own_part.stop - own_part.start) / len(rows)
            linear_GOB = self._linear_of(own_rows, None if lost_BM is None else lost_BM[own_part])
            state = self._forward(
                self.params, x_BF[own_part], linear_GOB, [mask[..., own_part] for mask in drop]
            )
            losses_GMTB = self._losses(
                state.outputs, self.targets[:, own_rows], self.components[:, own_rows]
            )
            weights_G1TB = self._of_slots(self.weights[:, own_rows])
            loss_GMT = (losses_GMTB * weights_G1TB).sum(-1) / len(rows)
            self._backward(
                loss_GMT, weights_G1TB, self._cluster_loss(state, own_rows) * share, share
            )
            loss_GMT = loss_GMT.detach()
            gradients = [value.grad for value in self.params.values() if value.grad is not None]
            stop = self.processes.sum_in_place(
                [*gradients, loss_GMT], bool(self.stop and self.stop())
            )
            self._step()
            self.loss_GT += loss_GMT.mean(1) * len(rows)
            self.batch += 1
            if stop:
                if self.checkpoint:
                    self._save()
                raise Stopped
        self.batch = 0
        return self.loss_GT / n

    def train_losses(self, params: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Losses [G, T] on some training rows as they are, with nothing dropped."""
        outputs = self._forward(params, self.x_train[rows], self._linear_of(rows, None)).outputs
        losses_GMTB = self._losses(outputs, self.targets[:, rows], self.components[:, rows])
        return (losses_GMTB * self._of_slots(self.weights[:, rows])).sum(-1).mean(1) / len(rows)

    def _backward(
        self, loss_GMT: Tensor, weights_G1TB: Tensor, cluster_loss: Tensor, share: float
    ) -> None:
        """Leave the gradient of a batch's losses in the parameters, or of this process's share of
        its rows.
        """
        if self.descend:
            self._descend(loss_GMT[0].mean(0), weights_G1TB[0, 0].any(1), cluster_loss)
            return
        if _LOG_VARIANCE in self.params:
            share_G1T = weights_G1TB.mean(-1) * share
            loss_GMT = by_uncertainty(
                loss_GMT, share_G1T, self.params[_LOG_VARIANCE], self.categorical
            )
        (loss_GMT.mean(1).sum() + cluster_loss).backward()

    def _descend(self, loss_T: Tensor, labelled_T: Tensor, cluster_loss: Tensor) -> None:
        """Combine the gradients of the tasks that have a label in the batch: one of zeros would
        stall some methods.
        """
        assert self.descend is not None
        losses = [
            loss for loss, labelled in zip(loss_T, labelled_T.tolist(), strict=True) if labelled
        ]
        if self.cluster_targets:
            losses.append(cluster_loss)
        seed = torch.randint(2**31, (), generator=self.generator, device=self.device)
        if losses:
            self.descend(losses, self.params.values(), int(seed))

    def _forward(
        self,
        params: Mapping[str, Tensor],
        x_BF: Tensor,
        linear_GOB: Tensor | None,
        drop: Sequence[Tensor] = (),
    ) -> Activations:
        mixed = self.config.precision == "bfloat16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            state = run(params, self.layout, self.config, x_BF, drop)
        outputs = state.outputs.to(self.config.dtype)
        if linear_GOB is not None:
            wide = outputs.view(len(self.active), -1, *outputs.shape[1:])
            outputs = (wide + linear_GOB.unsqueeze(1) * self.linear_members).view(outputs.shape)
        return state._replace(outputs=outputs)

    def _linear(self) -> tuple[Tensor, ...]:
        """Rows [G, O] of the linear path's table for each output, the table for training [P, n] and
        validation rows.

        Last the share [M, P, n] that each modality has in it: what is lost where training takes the
        modality away.
        """
        nothing = torch.zeros(0, device=self.device)
        table = self.data.linear
        if table is None:
            return nothing, nothing, nothing, nothing
        rows = torch.tensor(
            [table.rows_of(model.tasks, self.layout.outputs) for model in self.models]
        )
        used, slots = rows.unique(return_inverse=True)
        weights = table.weights[used]
        self.linear_bias = table.bias[used].to(self.device)
        shares = []
        start = 0
        widths = self.data.modalities.values()
        if self.config.modality_dropout and len(widths) > 1:
            for i, width in enumerate(widths, start=sum(widths)):
                part = slice(start, start := start + width)
                shares.append(
                    weights[:, part] @ self.data.x_train[:, part].T - weights[:, i : i + 1]
                )
        return (
            slots.to(self.device),
            table.train[used].to(self.device),
            table.valid[used].to(self.device),
            torch.stack(shares).to(self.device) if shares else nothing,
        )

    def _linear_of(self, rows: Tensor, lost_BM: Tensor | None) -> Tensor | None:
        """The linear path [G, O, B] of training rows that have lost some modalities."""
        if not len(self.linear_slots):
            return None
        linear_PB = self.linear_train[:, rows]
        if lost_BM is not None:
            linear_PB = linear_PB - torch.einsum(
                "mpb,bm->pb", self.linear_shares[:, :, rows], lost_BM
            )
        return linear_PB[self.linear_slots]

    def _of_slots(self, table: Tensor) -> Tensor:
        """The models' own rows [G, 1, T, B] of a table [tasks, B]."""
        return table[self.slots.flatten()].view(
            len(self.active), 1, self.layout.n_tasks, table.shape[1]
        )

    def _losses(self, outputs_KOB: Tensor, targets: Tensor, components_CB: Tensor) -> Tensor:
        """Losses [G, M, T, B], not yet masked, from outputs [K, O, B] and the targets [tasks, B] of
        all tasks.
        """
        outputs = outputs_KOB.view(len(self.active), -1, *outputs_KOB.shape[1:])
        targets = self._of_slots(targets)
        if self.layout.n_outputs == self.layout.n_tasks and not self.layout.clustering:
            return scalar_loss(outputs, targets, self.regression[:, None, :, None])
        losses = []
        for i, part in enumerate(self.layout.slices):
            task_outputs = outputs[:, :, part]
            target = targets[:, :, i]
            if i in self.layout.clustering:
                losses.append((task_outputs - components_CB).square().mean(2))
            elif part.stop - part.start > 1:
                losses.append(multiclass_loss(task_outputs, target))
            else:
                losses.append(
                    scalar_loss(task_outputs[:, :, 0], target, self.regression[:, None, i, None])
                )
        return torch.stack(losses, dim=2)

    def _dropout(self, batch: int) -> list[Tensor]:
        """Scaled dropout masks [M, H, B], one for each trunk layer."""
        if not self.config.dropout:
            return []
        return [
            self._mask((self.config.members, size, batch), self.config.dropout)
            for size in self.config.hidden
        ]

    def _corrupted(self, x_BF: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch in which some inputs are cut out and some modalities count as missing, never all
        that a row has.

        Also which modalities [B, M] each row has lost; None where none can be.
        """
        m = len(self.data.modalities)
        lost_BM = None
        if self.config.input_dropout:
            mask = self._mask(x_BF.shape, self.config.input_dropout)
            mask[:, -m:] = 1
            x_BF = x_BF * mask
        if self.config.modality_dropout and m > 1:
            present_BM = 1 - x_BF[:, -m:]
            kept_BM = present_BM * (self._mask(present_BM.shape, self.config.modality_dropout) > 0)
            kept_BM = torch.where(kept_BM.any(1, keepdim=True), kept_BM, present_BM)
            start = 0
            lost_BM = present_BM - kept_BM
            for i, width in enumerate(self.data.modalities.values()):
                x_BF[:, start : start + width] *= kept_BM[:, i : i + 1]
                start += width
            x_BF[:, -m:] = 1 - kept_BM
        return x_BF, lost_BM

    def _mask(self, shape: Sequence[int], rate: float) -> Tensor:
        """0 with the probability ``rate``, else 1 / (1 - rate)."""
        draws = torch.rand(
            *shape, device=self.device, generator=self.generator
        )  # half the time of bernoulli_
        return (draws >= rate).to(self.config.dtype).div_(1 - rate)

    @torch.no_grad()
    def _step(self) -> None:
        """One AdamW step; the weights of layers decay, biases, the attention's maps and centres do
        not.
        """
        learned = [name for name, value in self.params.items() if value.grad is not None]
        for decays in (True, False):
            names = [name for name in learned if name.endswith("weight") == decays]
            moments = [self.moments[name] for name in names]
            adamw(
                [self.params[name] for name in names],
                [gradient for name in names if (gradient := self.params[name].grad) is not None],
                [m.first for m in moments],
                [m.second for m in moments],
                [],
                [m.step for m in moments],
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=0.9,
                beta2=0.999,
                eps=1e-8,
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay if decays else 0.0,
            )
        for value in self.params.values():
            value.grad = None

    @torch.no_grad()
    def _update_average(self) -> None:
        """Let the moving average follow the weights: it is what is validated and kept."""
        keep = min(self.config.averaging, self.epoch / (self.epoch + 1))
        for name, value in self.params.items():
            self.average[name].lerp_(value, 1 - keep)

    # Validation and stopping ----------------------------------------------------------------------

    @torch.no_grad()
    def valid_losses(self, params: Mapping[str, Tensor]) -> Tensor:
        """Losses [G, T] of the members' mean on the validation rows; NaN where none is labelled."""
        total = torch.zeros(self.slots.shape, dtype=self.config.dtype, device=self.device)
        for start in range(0, len(self.x_valid), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            linear = (
                self.linear_valid[:, rows][self.linear_slots] if len(self.linear_slots) else None
            )
            outputs = self._forward(params, self.x_valid[rows], linear).outputs
            outputs_GOB = outputs.view(len(self.active), -1, *outputs.shape[1:]).mean(1)
            losses = self._losses(
                outputs_GOB, self.valid_targets[:, rows], self.valid_components[:, rows]
            )
            total += (losses * self._of_slots(self.valid_mask[:, rows])).sum(-1).mean(1)
        count = self.valid_mask.sum(1)[self.slots]
        return torch.where(count > 0, total / count.clamp_min(1), math.nan)

    def _stop_early(self, valid_GT: Tensor) -> None:
        """Keep the weights of the models that improved; let go of those that have not for
        ``patience`` epochs.

        Judged is the loss over all labels of the validation rows together: a task counts as it has
        labels, so that one with a handful can't stop the others.
        """
        loss_G = self._overall(valid_GT)
        blind_G = (self.valid_mask.sum(1)[self.slots].sum(1) == 0).tolist()
        improved = []
        going = []
        for at, model in enumerate(self.active):
            # Without a validation label there is nothing to choose by, and the last epoch stands.
            if blind_G[at] or loss_G[at] < self.best_loss[model]:
                self.best_loss[model] = math.inf if blind_G[at] else loss_G[at]
                self.best_epoch[model] = self.epoch
                improved.append(at)
            if self.epoch - self.best_epoch[model] < self.config.patience:
                going.append(at)
        if improved:
            models = [self.active[at] for at in improved]
            for name, best in self.best.items():
                best[self._rows(name, models)] = self.average[name][self._rows(name, improved)]
        if len(going) < _COMPACT_BELOW * len(self.active):
            if self.on_stop:
                self.on_stop(len(self.active) - len(going))
            self._keep(going)

    def _overall(self, valid_GT: Tensor) -> list[float]:
        """The loss [G] over all validation labels together; NaN without one, or where training has
        diverged.
        """
        labels_GT = self.valid_mask.sum(1)[self.slots]
        return (
            torch.where(labels_GT > 0, valid_GT * labels_GT, 0).sum(1) / labels_GT.sum(1)
        ).tolist()

    def _rows(self, name: str, models: Sequence[int]) -> Tensor:
        """The rows of some models in a wide parameter; the members of a model share its first layer
        and its centres.
        """
        members = 1 if name.startswith(("first_", "centres_")) else self.config.members
        return (
            (torch.tensor(models)[:, None] * members + torch.arange(members))
            .flatten()
            .to(self.device)
        )

    def _keep(self, places: Sequence[int]) -> None:
        """Go on with some of the running models only."""
        self.active = [self.active[at] for at in places]
        if not self.active:
            return
        for name, value in self.params.items():
            rows = self._rows(name, places)
            moments = self.moments[name]
            self.params[name] = value.detach()[rows].requires_grad_()
            self.average[name] = self.average[name][rows]
            self.moments[name] = Moments(moments.first[rows], moments.second[rows], moments.step)
        self.slots = self.slots[list(places)]
        self.regression = self.regression[list(places)]
        self.categorical = self.categorical[list(places)]
        self.cluster_targets = {
            task: p_Gnc[list(places)] for task, p_Gnc in self.cluster_targets.items()
        }
        if len(self.linear_slots):
            self.linear_slots = self.linear_slots[list(places)]

    @torch.no_grad()
    def _hand_over(self) -> None:
        """Give the models their best weights, and clusters the centres of the embedding under
        these.
        """
        self.best.pop(_LOG_VARIANCE, None)
        self.active = list(range(len(self.models)))
        self.slots, self.regression, self.categorical, self.linear_slots = self.of_all
        self._weigh_against_linear()
        best = dict(self.best)
        if self.layout.clustering:
            self.params = best
        for task in self.layout.clustering:
            self._start_clusters(task)
        for i, model in enumerate(self.models):
            for name, value in best.items():
                own = value[i] if name.startswith("centres_") else value[self._rows(name, [i])]
                model.register_parameter(name, torch.nn.Parameter(own.detach().cpu()))

    def _weigh_against_linear(self) -> None:
        """Mix each task's network with its linear path as its validation rows bear out.

        So a task whose network is of no use falls back to its line.
        """
        if self.data.linear is None:
            return
        by_members = float(self.linear_members.mean())
        bias_GO1 = self.linear_bias[self.linear_slots].unsqueeze(-1)
        shares = self._tensor(_SHARES)
        loss_LGT = torch.zeros(
            len(shares), *self.slots.shape, dtype=self.config.dtype, device=self.device
        )
        for start in range(0, len(self.x_valid), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            outputs = self._forward(self.best, self.x_valid[rows], None).outputs
            linear_GOB = self.linear_valid[:, rows][self.linear_slots]
            network_GOB = (
                outputs.view(len(self.models), -1, *outputs.shape[1:]).mean(1)
                + by_members * linear_GOB
            )
            linear_GOB = linear_GOB + bias_GO1
            mask_G1TB = self._of_slots(self.valid_mask[:, rows])
            for at, share in enumerate(shares):
                mixed_GOB = (1 - share) * linear_GOB + share * network_GOB
                losses = self._losses(
                    mixed_GOB, self.valid_targets[:, rows], self.valid_components[:, rows]
                )
                loss_LGT[at] += (losses * mask_G1TB).sum(-1).mean(1)
        share_GT = shares[loss_LGT.argmin(0)]
        share_GT[self.valid_mask.sum(1)[self.slots] < LEAST_TO_JUDGE] = _SHARES[0]
        for task in self.layout.clustering:
            share_GT[:, task] = 1
        share_GO = share_GT[:, list_owners(self.layout, self.device)]
        share_KO1 = share_GO.repeat_interleave(self.config.members, 0).unsqueeze(-1)
        bias_KO = bias_GO1.repeat_interleave(self.config.members, 0).squeeze(-1)
        for model, share_O in zip(self.models, share_GO, strict=True):
            model.linear_weight *= (1 - share_O + share_O * by_members).cpu().unsqueeze(1)
        self.best["head_weight"] *= share_KO1
        self.best["head_bias"] = bias_KO + share_KO1.squeeze(-1) * (
            self.best["head_bias"] - bias_KO
        )

    def _report(self, train_T: list[float], valid_T: list[float]) -> dict[str, Any]:
        report: dict[str, Any] = {
            "epoch": self.epoch,
            "epochs": self.config.epochs,
            "train_loss": sum(train_T),
            "valid_loss": sum(loss for loss in valid_T if not math.isnan(loss)),
        }
        for task, train, valid in zip(self.models[0].tasks, train_T, valid_T, strict=True):
            report |= {f"{task.name}/train_loss": train, f"{task.name}/valid_loss": valid}
        return report

    # Deep embedded clustering ---------------------------------------------------------------------

    def _cluster_loss(self, state: Activations, rows: Tensor) -> Tensor:
        loss = state.outputs.new_zeros(())
        for task, p_Gnc in self.cluster_targets.items():
            q_GBc = self._assigned(self._read(state, task), task)
            loss = (
                loss
                + self.config.cluster_weight * clustering_loss(q_GBc, p_Gnc[:, rows]).mean(1).sum()
            )
        return loss

    @torch.no_grad()
    def _refresh_clusters(self) -> None:
        """Start the clusters by k-means once the embedding has some shape; sharpen their targets
        every few epochs.
        """
        since = self.epoch - self.config.cluster_start
        if since < 0 or since % self.config.cluster_refresh:
            return
        for task in self.layout.clustering:
            if not since:
                self._start_clusters(task)
            q_Gnc = torch.cat(
                [self._assigned(z_GBD, task) for z_GBD in self._embedded(task)], dim=1
            )
            self.cluster_targets[task] = sharpen(q_Gnc)

    def _start_clusters(self, task: int) -> None:
        """Put the centres of a task where k-means finds them in each model's present embedding."""
        z_GnD = torch.cat(list(self._embedded(task)), dim=1).double().cpu().numpy()
        n_clusters = self.models[0].tasks[task].n_outputs
        centres = [k_means_centres(z_nD, n_clusters, self.config.seed) for z_nD in z_GnD]
        self._set_centres(task, torch.tensor(np.stack(centres)))

    def _embedded(self, task: int) -> Iterator[Tensor]:
        """What a task's head reads of the training rows, part by part [G, rows, M * D]."""
        for part in self.x_train.split(_ROWS_AT_ONCE):
            yield self._read(self._forward(self.params, part, None), task)

    def _read(self, state: Activations, task: int) -> Tensor:
        """What a task's head reads of a batch [G, B, M * D]."""
        z_KDB = attend(self.params, self.config, state, task)
        return z_KDB.view(len(self.active), -1, z_KDB.shape[-1]).transpose(1, 2)

    def _assigned(self, z_GBD: Tensor, task: int) -> Tensor:
        return soft_assignment(z_GBD, self.params[f"centres_{task}"])

    def _set_centres(self, task: int, centres_GcD: Tensor) -> None:
        """Take these centres; they have no best, since training ends by starting them anew."""
        name = f"centres_{task}"
        centres = centres_GcD.to(self.device, self.config.dtype)
        self.params[name] = centres.requires_grad_()
        self.moments[name] = Moments.of(centres)
        self.average[name] = centres.detach().clone()

    # Checkpoints ----------------------------------------------------------------------------------

    def _key(self) -> str:
        records = [list(map(TaskSpec.to_dict, model.tasks)) for model in self.models]
        return fingerprint(self.data.fingerprint(), records, self.config.to_dict())

    def _save_at_times(self) -> None:
        """Write the state, unless that would slow training down."""
        started = time.monotonic()
        is_done = self.epoch == self.config.epochs or not self.active
        last, cost = self.written
        if is_done or started - last >= _CHECKPOINT_SHARE * cost:
            self._save()
            self.written = (started, time.monotonic() - started)

    def _save(self) -> None:
        """Write the whole state of training; it is the same in all processes."""
        assert self.checkpoint is not None
        if not self.processes.is_first:
            return
        tensors = {
            "generator": self.generator.get_state(),
            "order": self.order,
            "loss": self.loss_GT,
        }
        for name, value in self.params.items():
            parts = {"now": value, "average": self.average[name]}
            parts |= {"best": self.best[name]} if name in self.best else {}
            tensors |= {
                f"{part}/{name}": t for part, t in (parts | self.moments[name]._asdict()).items()
            }
        tensors |= {
            f"cluster_targets/{task}": value for task, value in self.cluster_targets.items()
        }
        about = {
            "key": self.key,
            "epoch": self.epoch,
            "batch": self.batch,
            "best_loss": [None if math.isinf(loss) else loss for loss in self.best_loss],
            "best_epoch": self.best_epoch,
            "active": self.active,
        }
        write_tensors(self.checkpoint, tensors, about)

    def _restore(self) -> None:
        """Take up a state that belongs to the same data, tasks and configuration; leave any other
        alone.
        """
        assert self.checkpoint is not None
        tensors, about = read_tensors(self.checkpoint, self.device)
        if about["key"] != self.key:
            return
        for task in self.layout.clustering:
            if f"cluster_targets/{task}" in tensors:
                self._set_centres(task, tensors[f"now/centres_{task}"])
                self.cluster_targets[task] = tensors[f"cluster_targets/{task}"]
        for name in self.params:
            self.params[name] = tensors[f"now/{name}"].requires_grad_()
            self.average[name] = tensors[f"average/{name}"]
            if name in self.best:
                self.best[name] = tensors[f"best/{name}"]
            self.moments[name] = Moments(*(tensors[f"{part}/{name}"] for part in Moments._fields))
        self.generator.set_state(tensors["generator"].cpu())
        self.order = tensors["order"]
        self.batch = about["batch"]
        self.loss_GT = tensors["loss"]
        self.epoch = about["epoch"]
        self.best_epoch = about["best_epoch"]
        self.active = about["active"]
        self.best_loss = [math.inf if loss is None else loss for loss in about["best_loss"]]

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        tensor = torch.tensor(values, device=self.device)
        return tensor.to(self.config.dtype) if tensor.is_floating_point() else tensor
