"""Calibration: probabilities that mean what they say, and sets and intervals that hold the truth as
often as stated.

Everything here is fitted on the calibration split alone, which neither training nor any choice has
read. Probabilities are mapped by Platt scaling or a temperature; sets and intervals are
split-conformal: whatever the model, their coverage holds for samples that are exchangeable with
those of the calibration split, on average over such splits. (Several stays of one patient make it
approximate.) Sets and intervals start from the predictions as they were, not from the mapped ones,
because the map has seen the labels that the coverage is counted on.

Shapes: N samples of the cohort, n labelled rows of the calibration split, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.data.cohort import CALIBRATION, Cohort
from m3h_core.data.tasks import Problem, TaskSpec
from m3h_core.files import write_json
from m3h_core.grouped import share_interval

# A map is fitted where two classes have so many labels.
FEWEST_TO_MAP = 10

# How far a map is believed to lie from none: half-width of the log slope's and the offset's Cauchy
# prior.
_PRIOR = 0.3

_FORMAT = 1
# What float64 can tell from 1: probabilities nearer to 0 or 1 count as this near.
_NEAREST = 1e-15


@dataclass(frozen=True)
class TaskCalibration:
    """What the calibration split says of one task.

    ``counts`` are its labels, of each class for classification. ``mapped`` says whether they were
    enough to fit the map: slope and offset on the logit for binary, slope (inverse temperature) on
    the log-probabilities for multiclass. ``thresholds`` are the largest nonconformity that is let
    into a set, for each class, or into an interval, in the task's unit; infinite where the labels
    are too few for the coverage.
    """

    problem: Problem
    counts: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    mapped: bool = False
    slope: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(
        cls, task: TaskSpec, target: np.ndarray, prediction: np.ndarray, coverage: float
    ) -> TaskCalibration:
        """Fit on the labels [n] of a task and what was predicted for them, [n] or [n, C]."""
        if task.problem == "clustering":
            return cls(task.problem)
        if task.problem == "regression":
            return cls(
                task.problem,
                (len(target),),
                (_conformal_quantile(np.abs(target - prediction), coverage),),
            )
        unlikely = _nonconformity(task.problem, prediction)
        if not np.isin(target, range(unlikely.shape[1])).all():
            raise ValueError(
                f"the labels of {task.problem} task {task.name!r} must be whole and from 0 to C - 1"
            )
        by_class = [unlikely[target == c, c] for c in range(unlikely.shape[1])]
        counts = tuple(len(scores) for scores in by_class)
        thresholds = tuple(_conformal_quantile(scores, coverage) for scores in by_class)
        if sum(count >= FEWEST_TO_MAP for count in counts) < 2:
            return cls(task.problem, counts, thresholds)
        return cls(
            task.problem,
            counts,
            thresholds,
            True,
            *_fit_map(task.problem, target.astype(int), prediction),
        )

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
        from scipy.special import expit, softmax

        if not self.mapped:
            return prediction
        scores = self.slope * _to_scores(self.problem, prediction) + self.offset
        return expit(scores) if self.problem == "binary" else softmax(scores, axis=1)


@dataclass(frozen=True)
class Calibrator:
    """Calibrates a model's predictions, from the calibration split alone; travels as JSON.

    ``about`` says for each task how many labels there were, and whether a map and the coverage
    could be fitted. All methods take predictions as ``FittedModel.predict`` returns them, never
    those already calibrated, of any of the tasks. They raise ValueError for a task that was not
    fitted, another number of classes, or values that are not finite or no probabilities.

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
    ) -> Calibrator:
        """Fit on predictions {task: [N], or [N, C] for multiclass and clustering} of every row of
        the cohort.

        Read are the labelled rows of the calibration split. With fewer than 10 labels in all but
        one class the probabilities stay as they are; with fewer than coverage / (1 - coverage)
        labels (9 at 0.9) the set holds the class always, and the interval is infinite.
        """
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
            rows = cohort.rows(CALIBRATION)
            labelled = cohort.labelled.get(task.name, np.zeros(len(cohort), dtype=bool))
            rows = rows[np.asarray(labelled)[rows]]
            target = np.asarray(cohort.labels.get(task.name, labelled), dtype=np.float64)[rows]
            checked = _check_prediction(task.name, task.problem, task.n_outputs, prediction[rows])
            about[task.name] = TaskCalibration.of(task, target, checked, coverage)
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
        """Lower and upper ends [N, 2] in the task's unit, for each regression task."""
        return {
            name: prediction[:, None] + np.array([-1, 1]) * self.about[name].thresholds[0]
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
        record = json.loads((Path(folder) / "calibrator.json").read_text())
        if record.get("format") != _FORMAT:
            raise ValueError(
                f"{folder}: calibrator format {record.get('format')!r}, this version reads "
                f"{_FORMAT}"
            )
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
class ObservedCoverage:
    """How often sets or intervals held the truth: the share of ``n`` labels, with a 95% interval.

    ``size`` is the mean number of classes of a set, or the mean width of an interval in the task's
    unit. All are NaN where there is no label.
    """

    n: int
    coverage: float
    low: float
    high: float
    size: float

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        target: np.ndarray,
        predicted: np.ndarray,
        subjects: Sequence | np.ndarray | None = None,
    ) -> ObservedCoverage:
        """Judge what was said of n labels: sets bool [n, C], or intervals [n, 2] for regression.

        ``subjects`` [n]: whose rows they are. Rows of one subject tell less than those of several,
        and the interval is wider for it; without it each row stands alone.

        >>> intervals = np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
        >>> task = TaskSpec("stay", "regression")
        >>> coverage = ObservedCoverage.of(task, np.full(4, 2.0), intervals)
        >>> coverage.coverage, round(coverage.low, 2), coverage.size
        (0.75, 0.19, 4.0)
        """
        if not len(target):
            return cls(0, *[math.nan] * 4)
        if task.problem == "regression":
            inside = (predicted[:, 0] <= target) & (target <= predicted[:, 1])
            sizes = predicted[:, 1] - predicted[:, 0]
        else:
            inside = predicted[np.arange(len(target)), target.astype(int)]
            sizes = predicted.sum(1)
        whose = np.arange(len(target)) if subjects is None else subjects
        low, high = share_interval(inside, whose)
        return cls(len(target), float(inside.mean()), low, high, float(sizes.mean()))


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


def _conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of n scores; infinite where there is none.

    A new score is as likely to fall into each of the n + 1 gaps between them: so many of these hold
    the coverage.

    >>> [_conformal_quantile(np.arange(1.0, 1.0 + n), 0.9) for n in (9, 8)]
    [9.0, inf]
    """
    k = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 1e-9: rounding must not cost a rank
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else math.inf


def _to_scores(problem: Problem, prediction: np.ndarray) -> np.ndarray:
    """Logits [n] of a binary task, log-probabilities [n, C] of a multiclass one; finite also at 0
    and 1.
    """
    from scipy.special import logit

    inner = np.clip(prediction, _NEAREST, 1 - _NEAREST)
    return logit(inner) if problem == "binary" else np.log(inner)


def _fit_map(problem: Problem, target: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the highest likelihood under a prior that leaves probabilities as they
    are.

    Fitted is the logarithm of the slope, so that it is positive. The prior on either, a Cauchy of
    0.3, weighs as much as some hundred labels near 0 and little far away: a free map fits the
    chance of few labels and is worse than none (docs/modelling.md has the figures), while
    predictions that are far off are mended.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    scores = _to_scores(problem, prediction)
    sign = np.where(target == 1, -1, 1)

    def loss(at: np.ndarray) -> float:
        mapped = np.exp(at[0]) * scores
        if problem == "binary":
            unlikely = np.logaddexp(0, sign * (mapped + at[1]))
        else:
            unlikely = -log_softmax(mapped, axis=1)[np.arange(len(target)), target]
        return unlikely.sum() + np.log1p((at / _PRIOR) ** 2).sum()

    # Without gradients: there are one or two parameters, and a rare class makes the loss flat.
    start = np.zeros(2 if problem == "binary" else 1)
    log_slope, *offset = minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}
    ).x
    return float(np.exp(log_slope)), float(offset[0]) if offset else 0.0


def _task_from_json(record: dict[str, Any]) -> TaskCalibration:
    thresholds = tuple(math.inf if t is None else t for t in record["thresholds"])
    fields: dict[str, Any] = record | {"counts": tuple(record["counts"]), "thresholds": thresholds}
    return TaskCalibration(**fields)
