"""The models of a cross-fitted cohort as one: new patients get their mean, a patient of the cohort
the prediction of the model that did not see them.

Shapes: N samples, C classes or clusters, K folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from m3h_core.data.cohort import Cohort
from m3h_core.data.folds import assign_folds, select_by_fold
from m3h_core.data.tasks import TaskSpec
from m3h_core.files import read_saved_json, write_json

_FORMAT = 1
_ABOUT = "folds.json"


class Model(Protocol):
    """What is trained on one fold's cohort.

    ``is_rowwise``: what it predicts of a row is the same to the last bit whichever rows are beside
    it. A network's is not: products of matrices round otherwise among fewer rows.
    """

    is_rowwise: ClassVar[bool]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]: ...

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]: ...

    def save(self, folder: str | Path) -> None: ...


M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class FoldModels(Generic[M]):
    """A model for each fold, the k-th trained without the subjects of fold k; a single one where
    the cohort is not cross-fitted.

    The clusters of different models have nothing in common, so that there is no mean of them:
    clustering is the first model's, for all samples.
    """

    models: tuple[M, ...]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks; a clustering task has the number of clusters that was chosen."""
        return self.models[0].tasks

    def predict(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """The mean of all models' predictions of every row, {task: [N], or [N, C]}: for samples
        whose subjects none of them has seen.
        """
        return average(self.tasks, [model.predict(cohort) for model in self.models])

    def predict_unseen(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Each row's prediction {task: [N], or [N, C]} by the model that did not see its subject,
        who may have been in the cohort that the models were trained on.
        """
        fold = assign_folds(cohort.subjects, len(self.models))
        predictions = [
            _predict_some(model, cohort, fold == at) if model.is_rowwise else model.predict(cohort)
            for at, model in enumerate(self.models)
        ]
        return select_unseen(self.tasks, fold, predictions)

    def save(self, folder: str | Path) -> None:
        """Write a folder a model, ``0`` and so on, then ``folds.json``."""
        folder = Path(folder)
        for fold, model in enumerate(self.models):
            model.save(folder / str(fold))
        write_json(folder / _ABOUT, {"format": _FORMAT, "folds": len(self.models)})

    @classmethod
    def load(cls, folder: str | Path, load_one: Callable[[Path], M]) -> Self:
        """Read what :meth:`save` wrote, each model with ``load_one``."""
        folder = Path(folder)
        about = read_saved_json(folder / _ABOUT, "models", [_FORMAT])
        return cls(tuple(load_one(folder / str(fold)) for fold in range(about["folds"])))


def _predict_some(model: Model, cohort: Cohort, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions {task: [N] or [N, C]} of the rows that are ``wanted`` [N]; the others are NaN."""
    if wanted.all():
        return model.predict(cohort)
    predictions = {}
    for name, values in model.predict(cohort.take(np.flatnonzero(wanted))).items():
        predictions[name] = np.full((len(cohort), *values.shape[1:]), np.nan)
        predictions[name][wanted] = values
    return predictions


def average(
    tasks: Sequence[TaskSpec], predictions: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The mean {task: [N] or [N, C]} of the predictions of K models; of a clustering task the first
    model's.
    """
    averaged = {}
    for task in tasks:
        of_task = [values[task.name] for values in predictions]
        is_single = task.problem == "clustering" or len(of_task) == 1
        averaged[task.name] = of_task[0] if is_single else np.mean(of_task, axis=0)
    return averaged


def select_unseen(
    tasks: Sequence[TaskSpec],
    fold: np.ndarray,
    predictions: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Row by row the predictions {task: [N] or [N, C]} of the fold's model, of K models that each
    predicted all rows; of a clustering task the first model's.

    >>> death = TaskSpec("death", "binary")
    >>> predictions = [{"death": np.array([0.1, 0.2])}, {"death": np.array([0.3, 0.4])}]
    >>> select_unseen([death], np.array([1, 0]), predictions)
    {'death': array([0.3, 0.2])}
    """
    selected = select_by_fold(fold, predictions)
    return {
        task.name: (predictions[0] if task.problem == "clustering" else selected)[task.name]
        for task in tasks
    }
