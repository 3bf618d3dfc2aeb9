"""The model that is shipped: networks that learn all tasks jointly, and boosted trees, as one.

Where there are time series the networks are of two kinds: one reads their statistics, the other the
series themselves, step by step. Their mean is what is mixed with the trees.

Unlike learners err unlike: their mean predicts better than either. So do models that were trained
on other parts of the patients, the folds of a cross-fitted cohort. The first network is itself a
mixture with a ridge regression (m3h_core/ensemble/mixing.py), which is folded into it.

Shapes: N samples, C classes or clusters, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.folds import assign_folds
from m3h_core.data.tasks import TaskSpec
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import FoldMixtures, Mixture, average_networks
from m3h_core.ensemble.trees import TreeModels
from m3h_core.files import read_saved_json, write_json
from m3h_core.metrics import Score, evaluate_predictions
from m3h_core.training.fitted import FittedModel

# Format 1 had one network and its trees, of no fold, and no lines; format 2 no recurrent networks.
_FORMAT = 3
_READABLE = (1, 2, _FORMAT)
_ABOUT = "ensemble.json"
_NETWORK = "network"
_TREES = "trees"
_RECURRENT = "recurrent"


@dataclass(frozen=True)
class EnsembleModel:
    """Networks and boosted trees of the same tasks, one of each a fold: predicts, scores itself, is
    saved and loaded as a `FittedModel` is.

    ``mixtures`` say how much of a task's prediction is the networks'. A task without trees, such as
    clustering, is the networks' alone, and one that ``recurrent`` did not learn the first's. A
    model with ``recurrent`` predicts cohorts that have a series.
    """

    network: FoldModels[FittedModel]
    trees: FoldModels[TreeModels]
    mixtures: FoldMixtures
    recurrent: FoldModels[FittedModel] | None = None

    @classmethod
    def combine(
        cls,
        network: FoldModels[FittedModel],
        trees: FoldModels[TreeModels],
        cohort: Cohort,
        recurrent: FoldModels[FittedModel] | None = None,
    ) -> EnsembleModel:
        """All as one model, with the mixtures that the cohort's labels bear out."""
        networks = _list_networks(network, recurrent, cohort)
        of_networks = average_networks([one.predict_unseen(read) for one, read in networks])
        members = of_networks, trees.predict_unseen(cohort)
        mixtures = FoldMixtures.fit(cohort, network.tasks, *members)
        return cls(network, trees, mixtures, recurrent)

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks; a clustering task has the number of clusters that was chosen."""
        return self.network.tasks

    @property
    def n_folds(self) -> int:
        """How many folds the cohort had that it was trained on; 1 where it was judged on a test
        split.
        """
        return len(self.network.models)

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Predictions of every row of a cohort, float64 {task: [N], or [N, C] for multiclass and
        clustering}: for samples of new subjects.

        As :meth:`FittedModel.predict`; raises ValueError as both members do, and ImportError where
        LightGBM is not installed.
        """
        networks = _list_networks(self.network, self.recurrent, cohort)
        of_networks = average_networks([one.predict(read) for one, read in networks])
        return self.mixtures.of_all.apply(of_networks, self.trees.predict(cohort))

    def predict_unseen(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """As :meth:`predict`, but each row by the models and the mixture that did not see its
        subject: what the model is judged by.

        Of a model without folds that is true of the rows of its test split alone.
        """
        networks = _list_networks(self.network, self.recurrent, cohort)
        of_networks = average_networks([one.predict_unseen(read) for one, read in networks])
        members = of_networks, self.trees.predict_unseen(cohort)
        fold = assign_folds(cohort.subjects, self.n_folds)
        return self.mixtures.apply_unseen(*members, fold)

    def distances(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """How far every row lies from the centres of each clustering task: the first network's."""
        return self.network.models[0].distances(cohort)

    def evaluate(
        self, cohort: Cohort, split: int = TEST, n_bootstrap: int = 1000
    ) -> dict[str, Score]:
        """The score of each task on one split; see :func:`m3h_core.evaluate_predictions`."""
        return evaluate_predictions(
            cohort, self.tasks, self.predict_unseen(cohort), split=split, n_bootstrap=n_bootstrap
        )

    def save(self, folder: str | Path) -> None:
        """Write the folders ``network``, ``trees`` and, where there is one, ``recurrent``, then
        ``ensemble.json``, into an existing or new folder.
        """
        folder = Path(folder)
        self.network.save(folder / _NETWORK)
        self.trees.save(folder / _TREES)
        if self.recurrent is not None:
            self.recurrent.save(folder / _RECURRENT)
        write_json(
            folder / _ABOUT,
            {
                "format": _FORMAT,
                "recurrent": self.recurrent is not None,
                "mixture": self.mixtures.of_all.to_dict(),
                "mixtures by fold": [mixture.to_dict() for mixture in self.mixtures.by_fold],
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> EnsembleModel:
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder)
        about = read_saved_json(folder / _ABOUT, "ensemble", _READABLE)
        network = folder / _NETWORK
        trees = folder / _TREES
        if about["format"] == 1:
            return cls(
                FoldModels((FittedModel.load(network),)),
                FoldModels((TreeModels.load(trees),)),
                FoldMixtures(Mixture(about["shares"])),
            )
        recurrent = None
        if about.get("recurrent"):
            recurrent = FoldModels.load(folder / _RECURRENT, FittedModel.load)
        by_fold = [Mixture.from_dict(record) for record in about["mixtures by fold"]]
        return cls(
            FoldModels.load(network, FittedModel.load),
            FoldModels.load(trees, TreeModels.load),
            FoldMixtures(Mixture.from_dict(about["mixture"]), tuple(by_fold)),
            recurrent,
        )


def _list_networks(
    network: FoldModels[FittedModel], recurrent: FoldModels[FittedModel] | None, cohort: Cohort
) -> list[tuple[FoldModels[FittedModel], Cohort]]:
    """Each kind of networks that there is, with the cohort as it reads it."""
    if recurrent is None:
        return [(network, cohort)]
    return [(network, cohort), (recurrent, cohort.with_series())]


def load_model(folder: str | Path) -> FittedModel | EnsembleModel:
    """The model that lies in a folder: an ensemble, or a network alone."""
    folder = Path(folder)
    return EnsembleModel.load(folder) if (folder / _ABOUT).exists() else FittedModel.load(folder)
