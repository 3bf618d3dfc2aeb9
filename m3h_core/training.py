"""Training: one model, or many of equal layout at once; early stopping, checkpoints, and the fitted result.

Shapes: N samples, n rows of a split, B batch, F inputs, G models trained side by side, K = G x members networks,
T tasks of one model, O outputs of one model, c clusters. See model.py for the network itself.

Every random draw (order of rows, dropout) comes from the configuration's seed alone, never from a model's tasks: so a
model sees the same draws whether it is trained alone or beside others, and models of one seed are compared on equal
terms.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# The function, not the class: the class imports the compiler, which costs seconds.
from torch.optim.adamw import adamw

from m3h_core.checkpoint import fingerprint, read_tensors, write_json, write_tensors
from m3h_core.cohort import TEST, TRAIN, VALID, Cohort
from m3h_core.losses import clustering_loss, multiclass_loss, scalar_loss, sharpened, soft_assignment
from m3h_core.metrics import Score, evaluate_predictions, input_space, silhouette_rows
from m3h_core.model import M3H, FitConfig, attended, run
from m3h_core.tasks import TaskSpec

OnEpoch = Callable[[dict[str, Any]], None]

_FORMAT = 1
_ROWS_AT_ONCE = 2048
# A checkpoint is written when it costs at most a twentieth of the time since the last one.
_CHECKPOINT_SHARE = 20
# Below this share of running models, those that have stopped are taken out of the wide model.
_COMPACT_BELOW = 0.8


@dataclass(frozen=True)
class TrainingData:
    """What training reads of a cohort, as tensors; everything fitted here is fitted on the training split.

    ``x_train`` [n, F], ``x_valid`` [m, F]; ``targets``, ``weights`` [tasks, n] and ``valid_targets``, ``valid_mask``
    [tasks, m]: a weight is 0 where not labelled, else n over the task's labelled rows, so that the mean over any batch
    is an unbiased estimate of the mean over the labelled rows, and a batch without labels is no special case.
    """

    tasks: tuple[TaskSpec, ...]
    modalities: dict[str, int]
    mean: Tensor
    inverse_scale: Tensor
    x_train: Tensor
    x_valid: Tensor
    targets: Tensor
    weights: Tensor
    valid_targets: Tensor
    valid_mask: Tensor
    target_mean: Tensor
    target_scale: Tensor
    base_loss: Tensor
    prior: list[Tensor]
    components: Tensor | None
    valid_components: Tensor | None
    valid_space: np.ndarray | None

    @classmethod
    def of(cls, cohort: Cohort, tasks: Sequence[TaskSpec], config: FitConfig) -> TrainingData:
        """Prepare a cohort for these tasks, in the configuration's precision."""
        rows = {split: cohort.rows(split) for split in (TRAIN, VALID)}
        if not len(rows[TRAIN]):
            raise ValueError("the cohort has no row in the training split")
        dtype = config.dtype
        mean, inverse_scale = _standardizer(cohort)
        modalities = cohort.widths
        scaler = M3H(modalities, tasks[:1], FitConfig(hidden=(1,), width=1, precision=config.precision))
        scaler.mean.copy_(torch.from_numpy(mean))
        scaler.inverse_scale.copy_(torch.from_numpy(inverse_scale))
        x = {split: cohort_inputs(scaler, cohort, rows[split]) for split in (TRAIN, VALID)}
        columns = [_task_columns(cohort, task, rows) for task in tasks]
        stacked = {
            name: torch.tensor(np.array([column[name] for column in columns]), dtype=dtype)
            for name in ("targets", "weights", "valid_targets", "valid_mask", "mean", "scale", "base_loss")
        }
        components = valid_components = space = None
        if any(task.problem == "clustering" for task in tasks):
            components, valid_components = _components(x[TRAIN], x[VALID], modalities, config.cluster_components)
            space = input_space(cohort)[rows[VALID] if len(rows[VALID]) >= 20 else rows[TRAIN]]
        return cls(
            tasks=tuple(tasks),
            modalities=modalities,
            mean=scaler.mean,
            inverse_scale=scaler.inverse_scale,
            x_train=x[TRAIN],
            x_valid=x[VALID],
            targets=stacked["targets"],
            weights=stacked["weights"],
            valid_targets=stacked["valid_targets"],
            valid_mask=stacked["valid_mask"],
            target_mean=stacked["mean"],
            target_scale=stacked["scale"],
            base_loss=stacked["base_loss"],
            prior=[torch.tensor(column["prior"], dtype=dtype) for column in columns],
            components=components,
            valid_components=valid_components,
            valid_space=space,
        )

    def fingerprint(self) -> str:
        """A hash of all that training reads."""
        tensors = [self.x_train, self.x_valid, self.targets, self.weights, self.valid_targets, self.valid_mask]
        return fingerprint(self.modalities, [task.to_dict() for task in self.tasks], *tensors)

    def new_model(self, tasks: Sequence[TaskSpec], config: FitConfig) -> M3H:
        """An untrained model whose standardisation is fitted and whose heads start at the tasks' base rates."""
        model = M3H(self.modalities, tasks, config)
        at = {task.name: i for i, task in enumerate(self.tasks)}
        with torch.no_grad():
            model.mean.copy_(self.mean)
            model.inverse_scale.copy_(self.inverse_scale)
            for task, part in zip(tasks, model.layout.slices, strict=True):
                if task.problem != "clustering":
                    model.head_bias[:, part] = self.prior[at[task.name]]
        return model

    def fitted(self, model: M3H) -> FittedModel:
        """The model together with the units of its regression tasks."""
        at = {task.name: i for i, task in enumerate(self.tasks)}
        units = {
            task.name: (float(self.target_mean[at[task.name]]), float(self.target_scale[at[task.name]]))
            for task in model.tasks
            if task.problem == "regression"
        }
        return FittedModel(model.cpu().eval().requires_grad_(False), units)


@dataclass(frozen=True)
class FittedModel:
    """A trained model: predicts, scores itself, and travels as safetensors and JSON.

    ``units`` holds {regression task: (mean, standard deviation)} of the training labels.
    """

    model: M3H
    units: Mapping[str, tuple[float, float]]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks; a clustering task has the number of clusters that was chosen."""
        return self.model.tasks

    @property
    def config(self) -> FitConfig:
        """The configuration it was fitted with."""
        return self.model.config

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Predictions of every row of a cohort, float64 {task: [N], or [N, C] for multiclass and clustering}.

        Probabilities for binary and multiclass, the task's unit for regression, soft assignments for clustering.
        Labels are not read; a modality that the cohort lacks counts as missing. Raises ValueError for a modality that
        the model does not know, or of another width.
        """
        parts = []
        with torch.inference_mode():
            for start in range(0, max(len(cohort), 1), _ROWS_AT_ONCE):
                rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(cohort)))
                parts.append(self.model(*cohort_tensors(cohort, rows)))
        return {
            task.name: np.ascontiguousarray(
                self._finished(task, torch.cat([part[task.name] for part in parts]).double()).numpy()
            )
            for task in self.tasks
        }

    def evaluate(self, cohort: Cohort, split: int = TEST, n_bootstrap: int = 1000) -> dict[str, Score]:
        """The score of each task on one split; see :func:`m3h_core.evaluate_predictions`."""
        return evaluate_predictions(cohort, self.tasks, self.predict(cohort), split=split, n_bootstrap=n_bootstrap)

    def attention(self, cohort: Cohort) -> np.ndarray:
        """Attention weights [T, T], averaged over the rows of a cohort; row t is what task t takes from each task."""
        total = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, len(cohort), _ROWS_AT_ONCE):
                rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(cohort)))
                total += self.model.attention(*cohort_tensors(cohort, rows)).double().sum(0)
        return (total / max(len(cohort), 1)).numpy()

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` into an existing or new folder."""
        folder = Path(folder)
        write_tensors(folder / "model.safetensors", self.model.state_dict(), {"format": _FORMAT})
        write_json(
            folder / "model.json",
            {
                "format": _FORMAT,
                "modalities": list(self.model.modalities.items()),
                "tasks": [task.to_dict() for task in self.tasks],
                "config": self.config.to_dict(),
                "units": {name: list(unit) for name, unit in self.units.items()},
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> FittedModel:
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder)
        about = json.loads((folder / "model.json").read_text())
        if about.get("format") != _FORMAT:
            raise ValueError(f"{folder}: model format {about.get('format')!r}, this version reads {_FORMAT}")
        tasks = [TaskSpec.from_dict(record) for record in about["tasks"]]
        model = M3H(dict(about["modalities"]), tasks, FitConfig.from_dict(about["config"]))
        model.load_state_dict(read_tensors(folder / "model.safetensors")[0])
        units = {name: (unit[0], unit[1]) for name, unit in about["units"].items()}
        return cls(model.eval().requires_grad_(False), units)

    def _finished(self, task: TaskSpec, output: Tensor) -> Tensor:
        if task.problem == "binary":
            return torch.sigmoid(output)
        if task.problem == "multiclass":
            return torch.softmax(output, dim=1)
        if task.problem == "regression":
            mean, scale = self.units[task.name]
            return output * scale + mean
        return output


def fit(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    config: FitConfig | None = None,
    on_epoch: OnEpoch | None = None,
    resume: str | Path | None = None,
) -> FittedModel:
    """Train one model on the training split, stopped early on the validation split.

    ``on_epoch`` receives after each epoch {"epoch" (from 0), "epochs", "train_loss", "valid_loss", and
    "<task>/train_loss", "<task>/valid_loss" for each task}. With ``resume``, a folder, the state is kept there as it
    goes: the same call after a kill goes on where it was and ends with the same numbers. A state that belongs to other
    data, tasks or configuration is not used. Without a label in the validation split all epochs are run.
    """
    config = config or FitConfig()
    check_tasks(cohort, tasks)
    data = TrainingData.of(cohort, tasks, config)
    model = data.new_model(tasks, config)
    Trainer(data, [model], on_epoch=on_epoch, checkpoint=Path(resume) if resume else None).run()
    return data.fitted(model)


def check_tasks(cohort: Cohort, tasks: Sequence[TaskSpec]) -> None:
    """Raise ValueError where a task can't be learned from the cohort's labels as they are declared."""
    for task in tasks:
        if task.problem == "clustering":
            continue
        if task.name not in cohort.labels:
            raise ValueError(f"the cohort has no labels for task {task.name!r}")
        known = np.asarray(cohort.labels[task.name])[np.asarray(cohort.labelled[task.name])]
        allowed = {"binary": [0, 1], "multiclass": list(range(task.n_outputs))}.get(task.problem)
        if allowed and not np.isin(known, allowed).all():
            raise ValueError(f"labels of {task.problem} task {task.name!r} must be among 0 to {allowed[-1]}")


def cohort_tensors(cohort: Cohort, rows: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Embeddings and presence of some rows, as the network takes them."""
    embeddings = {name: torch.from_numpy(np.asarray(values[rows])) for name, values in cohort.embeddings.items()}
    return embeddings, {name: torch.from_numpy(np.asarray(there[rows])) for name, there in cohort.present.items()}


def cohort_inputs(model: M3H, cohort: Cohort, rows: np.ndarray) -> Tensor:
    """The standardised input matrix [n, F] of some rows."""
    return model.inputs(*cohort_tensors(cohort, rows))


class Moments(NamedTuple):
    """AdamW's state of one parameter."""

    first: Tensor
    second: Tensor
    step: Tensor


class Trainer:
    """Trains G models of equal layout and configuration as one wide model, in place.

    Models do not touch each other: each has its own loss, its own early stopping and its own best weights.
    """

    def __init__(
        self,
        data: TrainingData,
        models: Sequence[M3H],
        on_epoch: OnEpoch | None = None,
        on_stop: Callable[[int], None] | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.data, self.models, self.on_epoch, self.on_stop = data, list(models), on_epoch, on_stop
        self.config, self.layout = models[0].config, models[0].layout
        if self.layout.clustering and len(models) > 1:
            raise ValueError("a model with a clustering task is trained alone")
        self.device = torch.device(
            self.config.device if self.config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        at = {task.name: i for i, task in enumerate(data.tasks)}
        self.slots = torch.tensor([[at[task.name] for task in model.tasks] for model in models], device=self.device)
        self.regression = torch.tensor([[t.problem == "regression" for t in m.tasks] for m in models]).to(self.device)
        self.active = list(range(len(models)))
        self.params = {
            name: torch.cat([getattr(model, name).detach() for model in models]).to(self.device).requires_grad_()
            for name, _ in models[0].named_parameters()
            if not name.startswith("centres_")
        }
        self.moments = {name: _zero_moments(value) for name, value in self.params.items()}
        self.best = {name: value.detach().clone() for name, value in self.params.items()}
        self.averaged: dict[str, Tensor] = {}
        self.best_loss, self.best_epoch = [math.inf] * len(models), [-1] * len(models)
        self.epoch = 0
        self.cluster_targets: dict[int, Tensor] = {}
        self.x_train, self.x_valid = data.x_train.to(self.device), data.x_valid.to(self.device)
        self.targets, self.weights = data.targets.to(self.device), data.weights.to(self.device)
        self.checkpoint = checkpoint / "training.safetensors" if checkpoint else None
        self._written = (-math.inf, 0.0)

    def run(self) -> None:
        """Train until every model has stopped; the models then hold their best weights."""
        key = self._key() if self.checkpoint else ""
        if self.checkpoint and self.checkpoint.exists():
            self._restore(key)
        while self.active and self.epoch < self.config.epochs:
            if self.layout.clustering:
                self._refresh_clusters()
            train_T = self._train_epoch()
            self._average()
            valid_T = self._validate()
            report = self._report(train_T, valid_T) if self.on_epoch else None
            self.epoch += 1
            self._stop_early(valid_T)
            if self.checkpoint:
                self._save(key)
            if self.on_epoch and report:
                self.on_epoch(report)
        if self.on_stop and self.active:
            self.on_stop(len(self.active))
        self._hand_over()

    # One epoch -------------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> Tensor:
        """One pass over the training rows; returns the mean losses [G, T]."""
        n = len(self.x_train)
        order = torch.randperm(n, generator=self.generator, device=self.device)
        batches = torch.tensor_split(order, max(1, round(n / self.config.batch_size)))
        total = torch.zeros(self.slots.shape, dtype=self.config.dtype, device=self.device)
        for rows in batches:
            state = self._forward(self._corrupted(self.x_train[rows]), self._dropout(len(rows)))
            losses = self._losses(state, rows)
            loss_GT = losses.sum(-1).mean(1) / len(rows)
            loss = loss_GT.sum()
            if self.cluster_targets:
                loss = loss + self.config.cluster_weight * self._cluster_loss(state, rows)
            loss.backward()
            self._step()
            total += loss_GT.detach() * len(rows)
        return total / n

    @torch.no_grad()
    def _average(self) -> None:
        """Follow the weights with their moving average over epochs: it is what is validated and kept."""
        keep = min(self.config.averaging, self.epoch / (self.epoch + 1))
        for name, value in self.params.items():
            if name in self.averaged and keep:
                self.averaged[name].lerp_(value.detach(), 1 - keep)
            else:
                self.averaged[name] = value.detach().clone()

    def _forward(self, x_BF: Tensor, drop: Sequence[Tensor] = (), p=None) -> Any:
        mixed = self.config.precision == "bfloat16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            state = run(p or self.params, self.layout, self.config, x_BF, drop)
        return state._replace(outputs=state.outputs.to(self.config.dtype))

    def _losses(self, state: Any, rows: Tensor) -> Tensor:
        """Weighted losses [G, members, T, B] of a batch of training rows."""
        flat = self.slots.flatten()
        shape = (*self.slots.shape, len(rows))
        targets_GTB = self.targets[:, rows][flat].view(shape).unsqueeze(1)
        weights_GTB = self.weights[:, rows][flat].view(shape).unsqueeze(1)
        components = self.data.components
        outputs = state.outputs.view(len(self.active), self.config.members, self.layout.n_outputs, len(rows))
        reconstructed = components.to(self.device)[:, rows] if components is not None else None
        return self._elementwise(outputs, targets_GTB, reconstructed) * weights_GTB

    def _elementwise(self, outputs: Tensor, targets: Tensor, components: Tensor | None) -> Tensor:
        """Losses [G, members, T, B] from outputs [G, members, O, B] and targets [G, 1, T, B], not yet masked."""
        if self.layout.n_outputs == self.layout.n_tasks:
            return scalar_loss(outputs, targets, self.regression[:, None, :, None])
        losses = []
        for i, part in enumerate(self.layout.slices):
            mine, target = outputs[:, :, part], targets[:, :, i]
            if i in self.layout.clustering:
                losses.append((mine - components).square().mean(2))
            elif part.stop - part.start > 1:
                losses.append(multiclass_loss(mine, target))
            else:
                losses.append(scalar_loss(mine[:, :, 0], target, self.regression[:, None, i, None]))
        return torch.stack(losses, dim=2)

    def _dropout(self, batch: int) -> list[Tensor]:
        """Scaled dropout masks [members, H, B], one for each trunk layer."""
        keep = 1 - self.config.dropout
        if keep == 1:
            return []
        shapes = [(self.config.members, size, batch) for size in self.config.hidden]
        return [self._random_mask(shape, keep).div_(keep) for shape in shapes]

    def _corrupted(self, x_BF: Tensor) -> Tensor:
        """A copy of a batch in which some modalities count as missing; never all that a row has."""
        if self.config.input_dropout:
            keep = 1 - self.config.input_dropout
            mask = self._random_mask(x_BF.shape, keep).div_(keep)
            mask[:, -len(self.data.modalities) :] = 1
            x_BF = x_BF * mask
        if self.config.modality_dropout and len(self.data.modalities) > 1:
            m = len(self.data.modalities)
            there = 1 - x_BF[:, -m:]
            kept = there * self._random_mask(there.shape, 1 - self.config.modality_dropout)
            kept = torch.where(kept.any(1, keepdim=True), kept, there)
            start = 0
            for i, width in enumerate(self.data.modalities.values()):
                x_BF[:, start : start + width] *= kept[:, i : i + 1]
                start += width
            x_BF[:, -m:] = 1 - kept
        return x_BF

    def _random_mask(self, shape: Sequence[int], keep: float) -> Tensor:
        empty = torch.empty(*shape, dtype=self.config.dtype, device=self.device)
        return empty.bernoulli_(keep, generator=self.generator)

    # Validation and stopping -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Losses [G, T] of the averaged members on the validation rows; NaN where none is labelled."""
        total = torch.zeros(self.slots.shape, dtype=torch.float64, device=self.device)
        flat = self.slots.flatten().cpu()
        for start in range(0, len(self.x_valid), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            state = self._forward(self.x_valid[rows], p=self.averaged)
            outputs = state.outputs.view(len(self.active), self.config.members, self.layout.n_outputs, -1)
            shape = (*self.slots.shape, outputs.shape[-1])
            targets = self.data.valid_targets[:, rows][flat].view(shape).unsqueeze(1).to(self.device)
            mask = self.data.valid_mask[:, rows][flat].view(shape).to(self.device)
            known = self.data.valid_components
            reconstructed = known[:, rows].to(self.device) if known is not None else None
            losses = self._elementwise(outputs.mean(1, keepdim=True), targets, reconstructed)
            total += (losses[:, 0] * mask).sum(-1)
        count = self.data.valid_mask.sum(1)[flat].view(self.slots.shape).to(self.device)
        return torch.where(count > 0, total / count.clamp_min(1), math.nan)

    def _stop_early(self, valid_T: Tensor) -> None:
        """Keep the weights of the models that improved; let go of those that have not for ``patience`` epochs."""
        base = self.data.base_loss.to(self.device)[self.slots]
        criterion = (valid_T / base).nanmean(1).tolist()
        improved, going = [], []
        for at, model in enumerate(self.active):
            loss = criterion[at] if math.isfinite(criterion[at]) else math.inf
            # Without a validation label there is nothing to choose by: the last epoch stands.
            unjudged = math.isnan(criterion[at]) and self.best_loss[model] == math.inf
            early = bool(self.layout.clustering) and not self.cluster_targets
            if loss < self.best_loss[model] or unjudged or early:
                self.best_loss[model] = math.inf if early else loss
                self.best_epoch[model] = self.epoch
                improved.append(at)
            if self.epoch - self.best_epoch[model] < self.config.patience:
                going.append(at)
        if improved:
            there = [self.active[at] for at in improved]
            for name, value in self.averaged.items():
                if name.startswith("centres_"):
                    self.best[name] = value.detach().clone()
                else:
                    self.best[name][self._rows(name, there)] = value.detach()[self._rows(name, improved)]
        if len(going) < len(self.active) and len(going) < _COMPACT_BELOW * len(self.active):
            if self.on_stop:
                self.on_stop(len(self.active) - len(going))
            self._keep(going)

    def _rows(self, name: str, models: Sequence[int]) -> Tensor:
        """The rows of some models in a wide parameter; the members of a model share its first layer."""
        members = 1 if name.startswith("first_") else self.config.members
        return (torch.tensor(models)[:, None] * members + torch.arange(members)).flatten().to(self.device)

    def _keep(self, places: Sequence[int]) -> None:
        """Go on with some of the active models only."""
        self.active = [self.active[at] for at in places]
        if not self.active:
            return
        for name, value in self.params.items():
            rows, moments = self._rows(name, places), self.moments[name]
            self.params[name] = value.detach()[rows].requires_grad_()
            self.averaged[name] = self.averaged[name][rows]
            self.moments[name] = Moments(moments.first[rows], moments.second[rows], moments.step)
        self.slots, self.regression = self.slots[list(places)], self.regression[list(places)]

    @torch.no_grad()
    def _step(self) -> None:
        """One AdamW step; weights decay, biases, tokens and centres do not."""
        for decays in (True, False):
            names = [name for name, value in self.params.items() if value.grad is not None]
            names = [name for name in names if name.endswith("weight") == decays]
            moments = [self.moments[name] for name in names]
            adamw(
                [self.params[name] for name in names],
                [self.params[name].grad for name in names],
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

    def _hand_over(self) -> None:
        with torch.no_grad():
            for i, model in enumerate(self.models):
                for name, value in self.best.items():
                    if name.startswith("centres_"):
                        model.register_parameter(name, torch.nn.Parameter(value.cpu()))
                    else:
                        getattr(model, name).copy_(value[self._rows(name, [i])])

    def _report(self, train_T: Tensor, valid_T: Tensor) -> dict[str, Any]:
        train, valid = train_T[0].tolist(), valid_T[0].tolist()
        report: dict[str, Any] = {
            "epoch": self.epoch,
            "epochs": self.config.epochs,
            "train_loss": float(np.sum(train)),
            "valid_loss": float(np.nansum(valid)) if np.isfinite(valid).any() else math.nan,
        }
        for task, t, v in zip(self.models[0].tasks, train, valid, strict=True):
            report |= {f"{task.name}/train_loss": t, f"{task.name}/valid_loss": v}
        return report

    # Deep embedded clustering ----------------------------------------------------------------------------------------

    def _cluster_loss(self, state: Any, rows: Tensor) -> Tensor:
        loss = state.outputs.new_zeros(())
        for task, p_Nc in self.cluster_targets.items():
            q = soft_assignment(attended(self.params, self.config, state, task).T, self.params[f"centres_{task}"])
            loss = loss + clustering_loss(q, p_Nc[rows]).mean()
        return loss

    @torch.no_grad()
    def _refresh_clusters(self) -> None:
        """Start the clusters by k-means once the embedding has some shape; sharpen their targets every few epochs."""
        start = min(self.config.cluster_start, self.config.epochs - 1)
        if self.epoch < start or (self.epoch - start) % self.config.cluster_refresh:
            return
        for task in self.layout.clustering:
            z_ND = self._embedded(self.x_train, task)
            name = f"centres_{task}"
            if name not in self.params:
                self._start_clusters(task, z_ND)
            self.cluster_targets[task] = sharpened(soft_assignment(z_ND, self.params[name]))

    def _embedded(self, x: Tensor, task: int) -> Tensor:
        parts = [
            attended(self.params, self.config, self._forward(x[start : start + _ROWS_AT_ONCE]), task).T
            for start in range(0, len(x), _ROWS_AT_ONCE)
        ]
        return torch.cat(parts) if parts else x.new_zeros(0, self.config.members * self.config.width)

    def _start_clusters(self, task: int, z_ND: Tensor) -> None:
        spec = self.models[0].tasks[task]
        z = z_ND.double().cpu().numpy()
        if spec.n_classes:
            if spec.n_classes > len(z):
                raise ValueError(f"task {spec.name!r}: {spec.n_classes} clusters of {len(z)} training rows")
            centres = _k_means(z, spec.n_classes, self.config.seed).cluster_centers_
        else:
            judged = self._embedded(self.x_valid, task) if len(self.x_valid) >= 20 else z_ND
            centres = self._chosen_centres(z, judged.double().cpu().numpy())
        self._set_clusters(task, torch.tensor(centres, dtype=self.config.dtype))

    def _chosen_centres(self, z: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """k-means centres for the number of clusters with the best silhouette in the fixed input space."""
        space = self.data.valid_space
        assert space is not None
        rows = np.arange(0, len(judged), max(1, -(-len(judged) // 2000)))
        found = []
        for k in range(2, min(self.config.max_clusters, len(z)) + 1):
            means = _k_means(z, k, self.config.seed)
            silhouette = np.mean(silhouette_rows(space[rows], means.predict(judged[rows])))
            found.append((-math.inf if np.isnan(silhouette) else float(silhouette), means.cluster_centers_))
        return max(found, key=lambda pair: pair[0])[1] if found else z[:1].repeat(2, 0)

    def _set_clusters(self, task: int, centres: Tensor) -> None:
        model = self.models[0]
        model.tasks = tuple(
            replace(spec, classes=len(centres)) if i == task and not spec.n_classes else spec
            for i, spec in enumerate(model.tasks)
        )
        name = f"centres_{task}"
        self.params[name] = centres.to(self.device).requires_grad_()
        self.best[name] = centres.to(self.device).clone()
        self.moments[name] = _zero_moments(self.params[name])

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _key(self) -> str:
        tasks = [[task.to_dict() for task in model.tasks] for model in self.models]
        return fingerprint(self.data.fingerprint(), tasks, self.config.to_dict())

    def _save(self, key: str) -> None:
        """Write the whole state of training, unless that would slow training down."""
        finished = self.epoch == self.config.epochs or not self.active
        now = time.monotonic()
        last, cost = self._written
        if not finished and now - last < _CHECKPOINT_SHARE * cost:
            return
        assert self.checkpoint is not None
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, value in self.params.items():
            tensors[f"now/{name}"] = value
            tensors |= {f"{part}/{name}": moment for part, moment in self.moments[name]._asdict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {f"cluster_targets/{task}": value for task, value in self.cluster_targets.items()}
        about = {
            "key": key,
            "epoch": self.epoch,
            "best_loss": [None if math.isinf(loss) else loss for loss in self.best_loss],
            "best_epoch": self.best_epoch,
            "active": self.active,
        }
        write_tensors(self.checkpoint, tensors, about)
        self._written = (time.monotonic(), time.monotonic() - now)

    def _restore(self, key: str) -> None:
        """Take up a state that belongs to the same data, tasks and configuration; leave any other alone."""
        assert self.checkpoint is not None
        tensors, about = read_tensors(self.checkpoint)
        if about["key"] != key:
            return
        for task in self.layout.clustering:
            if f"now/centres_{task}" in tensors:
                self._set_clusters(task, tensors[f"now/centres_{task}"])
                self.cluster_targets[task] = tensors[f"cluster_targets/{task}"].to(self.device)
        with torch.no_grad():
            for name, value in self.params.items():
                value.copy_(tensors[f"now/{name}"])
                self.best[name] = tensors[f"best/{name}"].to(self.device)
                self.moments[name] = Moments(*(tensors[f"{k}/{name}"].to(self.device) for k in Moments._fields))
        self.generator.set_state(tensors["generator"])
        self.epoch, self.best_epoch, self.active = about["epoch"], about["best_epoch"], about["active"]
        self.best_loss = [math.inf if loss is None else loss for loss in about["best_loss"]]


def _zero_moments(value: Tensor) -> Moments:
    return Moments(torch.zeros_like(value), torch.zeros_like(value), torch.zeros((), device=value.device))


def _standardizer(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse standard deviation [inputs] over the training rows that have the modality; 0 for a constant."""
    means, inverses = [], []
    for name, values in cohort.embeddings.items():
        known = np.asarray(values, dtype=np.float64)[np.asarray(cohort.present[name]) & (cohort.split == TRAIN)]
        mean = known.mean(0) if len(known) else np.zeros(values.shape[1])
        deviation = known.std(0) if len(known) else np.zeros(values.shape[1])
        varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
        means.append(mean)
        inverses.append(np.where(varies, 1 / np.where(varies, deviation, 1), 0))
    return np.concatenate(means), np.concatenate(inverses)


def _task_columns(cohort: Cohort, task: TaskSpec, rows: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """A task's targets and weights on the training and validation rows, and what its training labels say of it."""
    n = len(rows[TRAIN])
    if task.problem == "clustering":
        return {
            "targets": np.zeros(n), "weights": np.ones(n), "valid_targets": np.zeros(len(rows[VALID])),
            "valid_mask": np.ones(len(rows[VALID])), "mean": 0.0, "scale": 1.0, "base_loss": 1.0, "prior": [0.0],
        }  # fmt: skip
    labels, labelled = np.asarray(cohort.labels[task.name], dtype=np.float64), np.asarray(cohort.labelled[task.name])
    known = labels[rows[TRAIN]][labelled[rows[TRAIN]]]
    mean, scale, base, prior = 0.0, 1.0, 1.0, [0.0]
    if task.problem == "regression":
        if len(known):
            mean, deviation = float(known.mean()), float(known.std())
            scale = deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0
    else:
        classes = task.n_outputs if task.problem == "multiclass" else 2
        counts = np.bincount(known.astype(int), minlength=classes) + 1.0
        share = counts / counts.sum()
        base = float(-(share * np.log(share)).sum())
        prior = [float(np.log(share[1] / share[0]))] if task.problem == "binary" else np.log(share).tolist()
    columns: dict[str, Any] = {"mean": mean, "scale": scale, "base_loss": base, "prior": prior}
    for split, target, weight in ((TRAIN, "targets", "weights"), (VALID, "valid_targets", "valid_mask")):
        there = labelled[rows[split]]
        columns[target] = np.where(there, (np.where(there, labels[rows[split]], 0) - mean) / scale, 0)
        columns[weight] = there * (n / max(1, len(known)) if split == TRAIN else 1.0)
    return columns


def _components(x: Tensor, x_valid: Tensor, modalities: Mapping[str, int], count: int) -> tuple[Tensor, Tensor]:
    """Leading principal components [count, n] and [count, m] of the inputs, each modality counted alike.

    Scaled to a mean variance of 1, with their relative sizes kept: what a clustering task's embedding reconstructs.
    """
    weights = torch.cat([torch.full((w,), w**-0.5) for w in modalities.values()]).to(x)
    z = x[:, : len(weights)] * weights
    centre = z.mean(0)
    z = (z - centre).double()
    if len(z) < z.shape[1]:  # the smaller side's matrix has the same leading values
        values, left = torch.linalg.eigh(z @ z.T / len(z))
        vectors = z.T @ (left / (values * len(z)).clamp_min(1e-12).sqrt())
    else:
        values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    count = min(count, x.shape[1])
    vectors = torch.nn.functional.pad(vectors, (max(0, count - len(values)), 0))
    top = (vectors[:, -count:].flip(1) / values[-count:].mean().clamp_min(1e-12).sqrt()).to(x)
    weighted = (x_valid[:, : len(weights)] * weights - centre) @ top
    return (z.to(x) @ top).T.contiguous(), weighted.T.contiguous()


def _k_means(z: np.ndarray, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(n_clusters=k, n_init=4, random_state=seed).fit(z)
