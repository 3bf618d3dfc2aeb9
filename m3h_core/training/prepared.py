"""What is ready before a network is trained: a cohort's tensors, and the ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.data.training_data import TrainingData
from m3h_core.ensemble.ridge_member import RidgeMember
from m3h_core.files import fingerprint
from m3h_core.model.m3h import M3H

# Counts up where the parameters of what is kept for a resumption change their names or meaning.
_STATES = 2


@dataclass(frozen=True)
class Prepared:
    """A cohort made ready for some tasks; ``ridge`` is None where the configuration wants no linear
    path.
    """

    data: TrainingData
    ridge: RidgeMember | None

    @classmethod
    def of(cls, cohort: Cohort, tasks: Sequence[TaskSpec], config: FitConfig) -> Prepared:
        """Prepare a cohort in the configuration's precision; raises ValueError for wrong labels."""
        data = TrainingData.of(cohort, tasks, config)
        return cls(data, RidgeMember.fit(data) if config.linear_path else None)

    def fingerprint(self) -> str:
        """A hash of all that training reads, and of the form of what it keeps."""
        parts = [] if self.ridge is None else [self.ridge.weights]
        return fingerprint(_STATES, self.data.fingerprint(), *parts)

    def new_model(self, tasks: Sequence[TaskSpec], config: FitConfig) -> M3H:
        """An untrained model whose standardisation is fitted and whose heads start at the ridge, or
        at the tasks' base rates.
        """
        tasks = self.data.with_clusters(tasks)
        model = M3H(self.data.modalities, tasks, config)
        with torch.no_grad():
            model.inputs.mean.copy_(self.data.mean)
            model.inputs.inverse_scale.copy_(self.data.inverse_scale)
            bias_KO = model.network.heads.bias
            for task, part in zip(tasks, model.layout.slices, strict=True):
                if task.problem == "clustering":
                    continue
                if self.ridge is None or model.linear is None:
                    bias_KO[:, part] = torch.tensor(self.data.prior(task)).to(bias_KO)
                else:
                    rows = self.ridge.rows[task.name]
                    model.linear.weight[part] = self.ridge.weights[rows]
                    bias_KO[:, part] = self.ridge.bias[rows]
        return model
