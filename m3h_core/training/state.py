"""How far a training is: all that changes as it goes, and all that a checkpoint holds.

Shapes: G models in parallel, T tasks of one model, n training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m3h_core.model.network import Network
from m3h_core.training.best_weights import BestWeights
from m3h_core.training.cluster_targets import ClusterTargets
from m3h_core.training.draws import Draws
from m3h_core.training.early_stopping import EarlyStopping
from m3h_core.training.optimizer import Optimizer
from m3h_core.training.weighting import EqualWeighting
from m3h_core.training.wide import WideModel

# An epoch of a larger training split reads so many of its rows, drawn anew each time: validation,
# averaging and patience then count in steps alike, whatever the size of the hospital.
_MOST_ROWS = 16_384


class TrainingState:
    """The parts that change, and where among the epochs and batches training stands.

    ``learned`` is what the optimizer steps on; ``active`` are the models that run, by their place
    among all. Of the epoch under way there are its rows in their order [n at most], the batches
    done, and the sum of their losses [G, T].
    """

    def __init__(
        self, wide: WideModel, weighting: EqualWeighting, modalities: Mapping[str, int]
    ) -> None:
        config = wide.config
        models = wide.objective.models
        self.wide = wide
        self.weighting = weighting
        self.learned = nn.ModuleDict({"network": wide.network, "weighting": weighting})
        self.optimizer = Optimizer(self.learned, config.learning_rate, config.weight_decay)
        self.weights = BestWeights(wide.network, config.averaging)
        self.clusters = ClusterTargets(wide)
        self.stopping = EarlyStopping(models, config.patience)
        self.draws = Draws(config, modalities, wide.device)
        self.active = list(range(models))
        self.epoch = 0
        self.batch = 0
        self.order = torch.zeros(0)
        self.loss_GT = torch.zeros(0)

    @property
    def network(self) -> Network:
        """The network of the running models."""
        return self.wide.network

    def start_epoch(self) -> None:
        """Draw the rows of an epoch, in their order; clusters start or move on."""
        if self.clusters.refresh(self.epoch):
            for task in self.clusters.tasks:
                self.optimizer.forget(f"network.heads.centres.{task}")
        self.order = self.draws.order(len(self.wide.x_train_nF))[:_MOST_ROWS]
        self.loss_GT = self.wide.zeros_GT()

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the running models only; none is the end."""
        running = len(self.active)
        self.active = [self.active[at] for at in places]
        if not self.active:
            return
        self.wide.keep(places)
        self.weighting.keep(places, running)
        self.optimizer.keep(places, running)
        self.clusters.keep(places)
        self.weights.keep(places, running)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds as tensors."""
        tensors = {
            "generator": self.draws.generator.get_state(),
            "order": self.order,
            "loss": self.loss_GT,
        }
        targets = {f"cluster_targets/{task}": p for task, p in self.clusters.targets.items()}
        return tensors | self._modules().state_dict() | self.optimizer.state_dict() | targets

    def about(self) -> dict[str, Any]:
        """What a checkpoint holds as JSON."""
        place = {"epoch": self.epoch, "batch": self.batch, "active": self.active}
        return place | self.stopping.state_dict()

    def load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`about` gave."""
        modules = self._modules()
        modules.load_state_dict({name: tensors[name] for name in modules.state_dict()})
        self.optimizer.load_state_dict(tensors)
        self.stopping.load_state_dict(about)
        for task in self.clusters.tasks:
            if f"cluster_targets/{task}" in tensors:
                self.clusters.targets[task] = tensors[f"cluster_targets/{task}"]
        self.draws.generator.set_state(tensors["generator"].cpu())
        self.order = tensors["order"]
        self.loss_GT = tensors["loss"]
        self.batch = about["batch"]
        self.epoch = about["epoch"]
        self.active = list(about["active"])

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {"now": self.learned, "average": self.weights.average, "best": self.weights.best}
        )
