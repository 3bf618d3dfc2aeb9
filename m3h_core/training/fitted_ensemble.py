"""The model that is shipped: a network that learns all tasks jointly, and boosted trees, as one.

Unlike learners err unlike: their mean predicts better than either. The network is itself a mixture
with a ridge regression (m3h_core/ensemble/mixing.py), which is folded into it.

Shapes: N samples, C classes or clusters, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.ensemble.shares import fit_network_shares, mix_predictions
from m3h_core.ensemble.trees import TreeModels
from m3h_core.files import read_saved_json, write_json
from m3h_core.metrics import Score, evaluate_predictions
from m3h_core.training.fitted import FittedModel

_FORMAT = 1
_ABOUT = "ensemble.json"
_NETWORK = "network"
_TREES = "trees"


@dataclass(frozen=True)
class EnsembleModel:
    """A network and boosted trees of the same tasks: predicts, scores itself, is saved and loaded
    as a `FittedModel` is.

    ``shares`` {task: 0 to 1} says how much of a task's prediction is the network's. A task without
    trees, such as clustering, is the network's alone.
    """

    network: FittedModel
    trees: TreeModels
    shares: Mapping[str, float]

    @classmethod
    def combine(cls, network: FittedModel, trees: TreeModels, cohort: Cohort) -> EnsembleModel:
        """Both as one model, with the shares that the cohort's validation split bears out."""
        shares = fit_network_shares(
            cohort, network.tasks, network.predict(cohort), trees.predict(cohort)
        )
        return cls(network, trees, shares)

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks; a clustering task has the number of clusters that was chosen."""
        return self.network.tasks

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Predictions of every row of a cohort, float64 {task: [N], or [N, C] for multiclass and
        clustering}.

        As :meth:`FittedModel.predict`; raises ValueError as both members do, and ImportError where
        LightGBM is not installed.
        """
        return mix_predictions(
            self.network.predict(cohort), self.trees.predict(cohort), self.shares
        )

    def distances(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """How far every row lies from the centres of each clustering task: the network's."""
        return self.network.distances(cohort)

    def evaluate(
        self, cohort: Cohort, split: int = TEST, n_bootstrap: int = 1000
    ) -> dict[str, Score]:
        """The score of each task on one split; see :func:`m3h_core.evaluate_predictions`."""
        return evaluate_predictions(
            cohort, self.tasks, self.predict(cohort), split=split, n_bootstrap=n_bootstrap
        )

    def save(self, folder: str | Path) -> None:
        """Write the folders ``network`` and ``trees``, then ``ensemble.json``, into an existing or
        new folder.
        """
        folder = Path(folder)
        self.network.save(folder / _NETWORK)
        self.trees.save(folder / _TREES)
        write_json(folder / _ABOUT, {"format": _FORMAT, "shares": dict(self.shares)})

    @classmethod
    def load(cls, folder: str | Path) -> EnsembleModel:
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder)
        about = read_saved_json(folder / _ABOUT, "ensemble", [_FORMAT])
        return cls(
            FittedModel.load(folder / _NETWORK), TreeModels.load(folder / _TREES), about["shares"]
        )


def load_model(folder: str | Path) -> FittedModel | EnsembleModel:
    """The model that lies in a folder: an ensemble, or a network alone."""
    folder = Path(folder)
    return EnsembleModel.load(folder) if (folder / _ABOUT).exists() else FittedModel.load(folder)
