"""How a cross-fitted cohort's own samples are calibrated: each by the labels of other folds alone.

What is shipped is one calibrator, fitted on all of them; these say how well it can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3h_core.calibration.calibrator import Calibrator, TaskCalibration
from m3h_core.data.cohort import Cohort
from m3h_core.data.folds import select_by_fold
from m3h_core.data.tasks import TaskSpec


@dataclass(frozen=True)
class FoldCalibrators:
    """A calibrator for the samples of each fold, used as a `Calibrator` is; ``fold`` [N] of every
    row of the cohort.
    """

    by_fold: tuple[Calibrator, ...]
    fold: np.ndarray

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        predictions: Mapping[str, np.ndarray],
        coverage: float = 0.9,
    ) -> FoldCalibrators:
        """Fit as :meth:`Calibrator.fit`, for each fold on all others; raises ValueError for a
        cohort without folds.
        """
        if cohort.fold is None:
            raise ValueError("the cohort has no folds: fit a Calibrator")
        others = [np.flatnonzero(cohort.fold != fold) for fold in range(cohort.n_folds)]
        calibrators = [
            Calibrator.fit(cohort, tasks, predictions, coverage, rows) for rows in others
        ]
        return cls(tuple(calibrators), cohort.fold)

    @property
    def coverage(self) -> float:
        """How often a set or an interval is to hold the truth."""
        return self.by_fold[0].coverage

    @property
    def about(self) -> Mapping[str, TaskCalibration]:
        """What the first fold's calibrator read of each task; the others read about as much."""
        return self.by_fold[0].about

    def calibrated(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :meth:`Calibrator.calibrated`."""
        return select_by_fold(self.fold, [one.calibrated(predictions) for one in self.by_fold])

    def sets(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :meth:`Calibrator.sets`."""
        return select_by_fold(self.fold, [one.sets(predictions) for one in self.by_fold])

    def intervals(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :meth:`Calibrator.intervals`."""
        return select_by_fold(self.fold, [one.intervals(predictions) for one in self.by_fold])

    def save(self, folder: str | Path) -> None:
        """Write a folder a fold, ``0`` and so on, into an existing or new folder."""
        for fold, calibrator in enumerate(self.by_fold):
            calibrator.save(Path(folder) / str(fold))

    @classmethod
    def load(cls, folder: str | Path, cohort: Cohort) -> FoldCalibrators:
        """Read what :meth:`save` wrote, for the cohort that it was fitted on."""
        if cohort.fold is None:
            raise ValueError("the cohort has no folds: load a Calibrator")
        calibrators = [Calibrator.load(Path(folder) / str(k)) for k in range(cohort.n_folds)]
        return cls(tuple(calibrators), cohort.fold)
