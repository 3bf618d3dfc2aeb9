"""What each judged row says of a model's prediction: its loss, and its influence on the metric.

A change of a task's score is then a mean over patients, whose error needs no resampling, and the
change of a proper score (log loss, squared error) is the sharpest test of it: it uses how far each
prediction was off, not only the order.

Shapes: n judged rows of a task, P their subjects, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.metrics import ScoredRows

# A probability of 0 or 1 would make one row's loss infinite.
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class SubjectScores:
    """One task's predictions on one split, by two measures, higher is better.

    ``metric``: the primary metric; ``skill``: 1 - loss / loss of the best constant, the loss being
    log loss or squared error (of clusters the silhouette, whose constant is worth 0). NaN where
    the metric is not defined. ``metric_P`` and ``skill_P`` are the subjects' contributions to the
    error of each: the variance of the difference of two models is the sum of the squared
    differences of these.
    """

    metric: float
    skill: float
    metric_P: np.ndarray
    skill_P: np.ndarray


def score_subjects(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, subject_of: np.ndarray
) -> SubjectScores:
    """Score predictions [N] or [N, C] of all rows on the test split; ``subject_of`` [N] numbers the
    subject of each row from 0.
    """
    part = ScoredRows.select(cohort, task, prediction, TEST)
    n_subjects = int(subject_of.max(initial=-1)) + 1
    metric = part.value()
    if not np.isfinite(metric):
        nothing = np.zeros(n_subjects, dtype=np.float32)
        return SubjectScores(np.nan, np.nan, nothing, nothing)
    gain = 1 - compute_losses(part) / _compute_constant_loss(part)
    skill = float(gain.mean())
    subjects = subject_of[part.rows]

    def to_subjects(of_rows: np.ndarray) -> np.ndarray:
        summed = np.bincount(subjects, weights=of_rows, minlength=n_subjects)
        return (summed / len(of_rows)).astype(np.float32)

    return SubjectScores(
        metric, skill, to_subjects(compute_influence(part)), to_subjects(gain - skill)
    )


def compute_skill(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, split: int = TEST
) -> float:
    """1 - loss / loss of the best constant on one split; NaN where all its labels are alike."""
    part = ScoredRows.select(cohort, task, prediction, split)
    constant = _compute_constant_loss(part) if len(part.rows) else 0.0
    return float(1 - compute_losses(part).mean() / constant) if constant > 0 else float("nan")


def compute_losses(part: ScoredRows) -> np.ndarray:
    """The loss [n] of each row: log loss of a class, squared error of a number, 1 - silhouette.

    >>> y_true = np.array([1.0, 2.0])
    >>> y_pred = np.array([1.0, 4.0])
    >>> compute_losses(ScoredRows(TaskSpec("stay", "regression"), np.arange(2), y_true, y_pred))
    array([0., 4.])
    """
    if part.task.problem == "clustering":
        return 1 - part.target
    if part.task.problem == "regression":
        return (part.target - part.prediction) ** 2
    prediction = part.prediction
    if part.task.problem == "binary":
        prediction = np.stack([1 - prediction, prediction], axis=1)
    of_truth = np.take_along_axis(prediction, part.target.astype(int)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(of_truth, _LEAST_PROBABILITY, 1))


def compute_influence(part: ScoredRows) -> np.ndarray:
    """The influence [n] of each row on the primary metric: their mean is 0, and the sum of their
    squares over n squared is the metric's variance (for AUROC that of DeLong).
    """
    problem = part.task.problem
    if problem == "clustering":
        return part.target - part.target.mean()
    if problem == "regression":
        return _influence_on_r2(part.target, part.prediction)
    if problem == "binary":
        return _influence_on_auroc(part.target == 1, part.prediction)
    classes = range(part.prediction.shape[1])
    of_classes = [_influence_on_auroc(part.target == c, part.prediction[:, c]) for c in classes]
    is_defined = [np.isfinite(influence).all() for influence in of_classes]
    return np.mean(np.array(of_classes)[is_defined], axis=0)


def _influence_on_auroc(is_positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """NaN where one kind is missing."""
    n = len(score)
    n_positive = int(is_positive.sum())
    n_negative = n - n_positive
    if not n_positive or not n_negative:
        return np.full(n, np.nan)
    negative = np.sort(score[~is_positive])
    positive = np.sort(score[is_positive])
    influence = np.empty(n)
    # The share of the other kind that each row is ranked above, ties counting half.
    below = _count_below(negative, score[is_positive]) / n_negative
    above = 1 - _count_below(positive, score[~is_positive]) / n_positive
    influence[is_positive] = (below - below.mean()) * n / n_positive
    influence[~is_positive] = (above - above.mean()) * n / n_negative
    return influence


def _count_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of the ordered numbers lie below each value, ties counting half."""
    return (
        np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    ) / 2


def _influence_on_r2(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    squared_errors = (y_true - y_pred) ** 2
    squared_deviations = (y_true - y_true.mean()) ** 2
    unexplained = squared_errors.mean() / squared_deviations.mean()
    return (unexplained * squared_deviations - squared_errors) / squared_deviations.mean()


def _compute_constant_loss(part: ScoredRows) -> float:
    """The mean loss of the best constant prediction."""
    if part.task.problem == "clustering":
        return 1.0
    if part.task.problem == "regression":
        return float(part.target.var())
    shares = np.bincount(part.target.astype(int)) / len(part.target)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
