"""The calibrator of a model's predictions, fitted task by task; a JSON file.

Shapes: N samples of the cohort, n labelled rows of the calibration split, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.calibration.intervals import (
    Spread,
    compute_conformal_quantile,
    compute_spread,
    find_lowest,
    fit_spread,
)
from m3h_core.calibration.probabilities import fit_map, map_probabilities, pays
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID, Cohort
from m3h_core.data.tasks import Problem, TaskSpec
from m3h_core.files import read_saved_json, write_json

# A map is fitted where two classes have so many labels.
_FEWEST_TO_MAP = 10

# Format 1 had one width for all predictions, and no lower bound.
_FORMAT = 2
_READS = (1, 2)


@dataclass(frozen=True)
class TaskCalibration:
    """What the labels say of one task.

    ``counts`` are those of the calibration split, of each class for classification. ``mapped`` says
    whether a map pays: slope and offset on the logit for binary, slope (inverse temperature) on the
    log-probabilities for multiclass. ``thresholds`` are the largest nonconformity that is let into
    a set, for each class, or into an interval, in multiples of the spread; infinite where the
    labels are too few for the coverage. ``spread``: knots (prediction, mean absolute error) in the
    task's unit, none where the spread is 1 throughout; ``lowest``: what no label lies below, where
    that is known.
    """

    problem: Problem
    counts: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    mapped: bool = False
    slope: float = 1.0
    offset: float = 0.0
    spread: Spread = ()
    lowest: float | None = None

    @classmethod
    def of_values(
        cls,
        target: np.ndarray,
        prediction: np.ndarray,
        coverage: float,
        spread: Spread = (),
        lowest: float | None = None,
    ) -> TaskCalibration:
        """Fit on the labels [n] of a regression task and what was predicted for them [n]."""
        centre = _raise_to(lowest, prediction)
        scores = np.abs(target - centre) / compute_spread(spread, centre)
        threshold = compute_conformal_quantile(scores, coverage)
        return cls("regression", (len(target),), (threshold,), spread=spread, lowest=lowest)

    @classmethod
    def of_classes(
        cls,
        task: TaskSpec,
        target: np.ndarray,
        prediction: np.ndarray,
        coverage: float,
        subjects: np.ndarray,
    ) -> TaskCalibration:
        """Fit on the labels [n] of a binary or multiclass task, what was predicted for them, [n] or
        [n, C], and whose they are [n].
        """
        unlikely = _nonconformity(task.problem, prediction)
        if not np.isin(target, range(unlikely.shape[1])).all():
            raise ValueError(
                f"the labels of {task.problem} task {task.name!r} must be whole and from 0 to C - 1"
            )
        by_class = [unlikely[target == c, c] for c in range(unlikely.shape[1])]
        counts = tuple(len(scores) for scores in by_class)
        thresholds = tuple(compute_conformal_quantile(scores, coverage) for scores in by_class)
        classes = target.astype(int)
        if sum(count >= _FEWEST_TO_MAP for count in counts) < 2 or not pays(
            task.problem, classes, prediction, subjects
        ):
            return cls(task.problem, counts, thresholds)
        slope, offset = fit_map(task.problem, classes, prediction)
        return cls(task.problem, counts, thresholds, True, slope, offset)

    @property
    def n(self) -> int:
        """Number of calibration labels."""
        return sum(self.counts)

    @property
    def covered(self) -> bool:
        """Whether the labels are enough for the coverage, in each class; if not, some sets or
        intervals say nothing.
        """
        return bool(self.thresholds) and all(
            math.isfinite(threshold) for threshold in self.thresholds
        )

    def calibrated(self, prediction: np.ndarray) -> np.ndarray:
        """The mapped probabilities; the prediction itself where there is no map."""
        if not self.mapped:
            return prediction
        return map_probabilities(self.problem, prediction, self.slope, self.offset)

    def interval(self, prediction: np.ndarray) -> np.ndarray:
        """Lower and upper ends [N, 2] around a regression task's predictions [N].

        A prediction below the lowest value that is possible counts as that value.
        """
        centre = _raise_to(self.lowest, prediction)
        reach = self.thresholds[0] * compute_spread(self.spread, centre)
        return _raise_to(self.lowest, np.column_stack([centre - reach, centre + reach]))


@dataclass(frozen=True)
class Calibrator:
    """Calibrates a model's predictions; travels as JSON.

    ``about`` says for each task how many labels there were, whether a map pays, and whether the
    coverage could be fitted. All methods take predictions as ``FittedModel.predict`` returns them,
    never those already calibrated, of any of the tasks. They raise ValueError for a task that was
    not fitted, another number of classes, or values that are not finite or no probabilities.

    >>> n = 120
    >>> cohort = Cohort(
    ...     sample_ids=[str(i) for i in range(n)], split=np.full(n, 2), embeddings={}, present={},
    ...     labels={"death": (np.arange(n) % 4 == 0) * 1.0, "stay": np.arange(n) % 10 * 1.0},
    ...     labelled={"death": np.ones(n, bool), "stay": np.ones(n, bool)})
    >>> tasks = [TaskSpec("death", "binary"), TaskSpec("stay", "regression", unit="days")]
    >>> predictions = {"death": np.where(np.arange(n) % 2, 0.01, 0.99), "stay": np.full(n, 5.0)}
    >>> calibrator = Calibrator.fit(cohort, tasks, predictions, coverage=0.9)
    >>> calibrator.calibrated(predictions)["death"][:2].round(1)  # of those with .99 half died
    array([0.5, 0. ])
    >>> calibrator.sets(predictions)["death"][:2].tolist()  # [survives, dies]
    [[True, True], [True, False]]
    >>> calibrator.intervals(predictions)["stay"][0].tolist()
    [0.0, 10.0]
    >>> calibrator.about["death"].counts, calibrator.about["death"].covered
    ((90, 30), True)
    """

    coverage: float
    about: Mapping[str, TaskCalibration]

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        predictions: Mapping[str, np.ndarray],
        coverage: float = 0.9,
        rows: np.ndarray | None = None,
    ) -> Calibrator:
        """Fit on predictions {task: [N], or [N, C] for multiclass and clustering} of every row of
        the cohort.

        The map and the coverage are fitted on the labelled rows of the calibration split. How the
        width of an interval follows the prediction is fitted on those of the validation split, and
        an interval is cut at 0 where no label outside of the test split is negative. Of a
        cross-fitted cohort, whose predictions must be those of models that did not see the row's
        subject, all ``rows`` are read, every row by default; of these the training split says how
        widths follow the prediction, and the others the coverage of intervals. With fewer than 10
        labels in all but one class, or where a map does not pay, the probabilities stay as they
        are; with fewer than coverage / (1 - coverage) labels (9 at 0.9) the set holds the class
        always, and the interval is infinite.
        """
        parts = _Rows.of(cohort, rows)
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie between 0 and 1, not {coverage}")
        about = {}
        for task in tasks:
            if task.name not in predictions:
                raise ValueError(f"there are no predictions of task {task.name!r}")
            prediction = np.asarray(predictions[task.name])
            if len(prediction) != len(cohort):
                raise ValueError(
                    f"predictions of {task.name!r} have {len(prediction)} rows, the cohort "
                    f"{len(cohort)}"
                )
            about[task.name] = _fit_task(cohort, task, prediction, coverage, parts)
        return cls(coverage, about)

    def calibrated(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The predictions with calibrated probabilities; values and assignments are those given.

        The map of a binary task is increasing, so that its ranking and its AUROC stay; that of a
        multiclass task keeps the ranking of the classes of each row.
        """
        return {
            name: self.about[name].calibrated(prediction)
            for name, prediction in self._check_predictions(predictions)
        }

    def sets(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Classes bool [N, C] that can't be ruled out, for each binary (C = 2: no, yes) and
        multiclass task.

        The coverage holds within each class (Mondrian): of the patients who will have a rare
        diagnosis, 90% have it in their set. Marginal coverage would be reached by always saying no.
        A set with all classes says that the model can't tell; an empty one that the sample is
        unlike those of any class.
        """
        return {
            name: _nonconformity(self.about[name].problem, prediction)
            <= np.array(self.about[name].thresholds)
            for name, prediction in self._check_predictions(predictions)
            if self.about[name].problem in ("binary", "multiclass")
        }

    def intervals(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Lower and upper ends [N, 2] in the task's unit, for each regression task.

        The width follows the prediction, as far as errors did on the validation split. The coverage
        holds over all samples; among those with large predictions, or small ones, nearly.
        """
        return {
            name: self.about[name].interval(prediction)
            for name, prediction in self._check_predictions(predictions)
            if self.about[name].problem == "regression"
        }

    def save(self, folder: str | Path) -> None:
        """Write ``calibrator.json`` into an existing or new folder."""
        tasks = {name: asdict(task) for name, task in self.about.items()}
        for task in tasks.values():  # JSON has no infinity
            task["thresholds"] = [t if math.isfinite(t) else None for t in task["thresholds"]]
        write_json(
            Path(folder) / "calibrator.json",
            {"format": _FORMAT, "coverage": self.coverage, "tasks": tasks},
        )

    @classmethod
    def load(cls, folder: str | Path) -> Calibrator:
        """Read what :meth:`save` wrote; no code is run from the file."""
        record = read_saved_json(Path(folder) / "calibrator.json", "calibrator", _READS)
        return cls(
            record["coverage"],
            {name: _task_from_json(task) for name, task in record["tasks"].items()},
        )

    def _check_predictions(
        self, predictions: Mapping[str, np.ndarray]
    ) -> list[tuple[str, np.ndarray]]:
        if unknown := set(predictions) - set(self.about):
            raise ValueError(f"the calibrator was not fitted for the tasks {sorted(unknown)}")
        return [
            (
                name,
                _check_prediction(
                    name, self.about[name].problem, len(self.about[name].counts), prediction
                ),
            )
            for name, prediction in predictions.items()
        ]


@dataclass(frozen=True)
class _Rows:
    """Which rows of a cohort are read for what: bool [N] each."""

    classes: np.ndarray
    intervals: np.ndarray
    spread: np.ndarray
    lowest: np.ndarray

    @classmethod
    def of(cls, cohort: Cohort, rows: np.ndarray | None) -> _Rows:
        if cohort.fold is None:
            calibration = cohort.split == CALIBRATION
            return cls(calibration, calibration, cohort.split == VALID, lowest=cohort.split != TEST)
        is_read = np.isin(np.arange(len(cohort)), np.arange(len(cohort)) if rows is None else rows)
        is_train = cohort.split == TRAIN
        return cls(is_read, is_read & ~is_train, is_read & is_train, lowest=is_read)


def _fit_task(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, coverage: float, parts: _Rows
) -> TaskCalibration:
    """Fit on the predictions of every row of the cohort."""
    labelled = np.asarray(cohort.labelled.get(task.name, np.zeros(len(cohort), dtype=bool)))
    labels = np.asarray(cohort.labels.get(task.name, labelled), dtype=np.float64)

    def select(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(labelled & part)
        checked = _check_prediction(task.name, task.problem, task.n_outputs, prediction[rows])
        return rows, labels[rows], checked

    if task.problem == "clustering":
        return TaskCalibration(task.problem)
    if task.problem != "regression":
        rows, target, predicted = select(parts.classes)
        return TaskCalibration.of_classes(task, target, predicted, coverage, cohort.subjects[rows])
    _, target, predicted = select(parts.intervals)
    _, spread_target, spread_predicted = select(parts.spread)
    lowest = find_lowest(labels[labelled & parts.lowest])
    centre = _raise_to(lowest, spread_predicted)
    spread = fit_spread(centre, np.abs(spread_target - centre))
    return TaskCalibration.of_values(target, predicted, coverage, spread, lowest)


def _check_prediction(name: str, problem: Problem, n_classes: int, prediction: Any) -> np.ndarray:
    """The prediction as an array, if it is one that the problem can have."""
    prediction = np.asarray(prediction)
    if problem == "clustering":
        return prediction
    expected, width = (
        (f"[N, {n_classes}]", (n_classes,)) if problem == "multiclass" else ("[N]", ())
    )
    if not prediction.ndim or prediction.shape[1:] != width:
        raise ValueError(
            f"predictions of {name!r} must be {expected}, not of shape {prediction.shape}"
        )
    if not np.isfinite(prediction).all():
        raise ValueError(f"predictions of {name!r} are not all finite")
    if problem == "regression":
        return prediction
    if ((prediction < 0) | (prediction > 1)).any():
        raise ValueError(f"predictions of {name!r} must be probabilities, from 0 to 1")
    if problem == "multiclass" and not np.allclose(prediction.sum(1), 1, atol=1e-3):
        raise ValueError(f"predictions of {name!r} must add up to 1 over the classes")
    return prediction


def _nonconformity(problem: Problem, prediction: np.ndarray) -> np.ndarray:
    """Nonconformity [n, C] of each class: 1 - its probability."""
    return np.column_stack([prediction, 1 - prediction]) if problem == "binary" else 1 - prediction


def _raise_to(lowest: float | None, values: np.ndarray) -> np.ndarray:
    return values if lowest is None else np.maximum(values, lowest)


def _task_from_json(record: dict[str, Any]) -> TaskCalibration:
    fields: dict[str, Any] = record | {
        "counts": tuple(record["counts"]),
        "thresholds": tuple(math.inf if t is None else t for t in record["thresholds"]),
        "spread": tuple(tuple(knot) for knot in record.get("spread", ())),
    }
    return TaskCalibration(**fields)
