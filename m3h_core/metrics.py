"""Scores with intervals: the one place where predictions are judged, whichever model made them.

The primary metric of each problem class is higher-is-better: AUROC; macro one-vs-rest AUROC; R2;
silhouette of the hard clusters in the fixed standardised input space. Intervals come from
resampling subjects, not rows, and the same resamples serve every task and every model, so that
differences are paired.

Shapes: N samples of the cohort, n rows that are scored, R resamples, C classes, F inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.silhouette import hard_clusters, input_space, silhouette_rows
from m3h_core.data.tasks import Problem, TaskSpec
from m3h_core.weighted_metrics import stratified_auroc, weighted_r2

METRICS: dict[Problem, str] = {
    "binary": "AUROC",
    "multiclass": "macro AUROC",
    "regression": "R2",
    "clustering": "silhouette",
}
# A silhouette needs all distances between its rows.
SILHOUETTE_ROWS = 3000


@dataclass(frozen=True)
class Score:
    """A task's primary metric with a 95% interval over subjects; NaN where it is not defined on
    these rows.

    ``n`` counts the rows that were scored (0: none was labelled). ``others`` holds further metrics
    by name:

    - binary: AUPRC, positives; where all predictions lie in [0, 1] also ECE and Brier score
    - multiclass: accuracy; where all predictions lie in [0, 1] also ECE (of the likeliest class)
    - regression: MAE
    - clustering: clusters that occur, share of rows in the smallest and the largest, Davies-Bouldin
      index in the same space as the silhouette (lower is better)
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A paired difference of one metric (first minus second) with a 95% interval over subjects."""

    value: float
    low: float
    high: float
    n: int


def evaluate_predictions(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Mapping[str, np.ndarray],
    split: int = TEST,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Scores of predictions {task: [N] or [N, C], for every row of the cohort} on one split.

    Probabilities for classification (any increasing score will do for the primary metric), the
    task's unit for regression, soft or one-hot assignments for clustering. A task without a label
    in the split has the value NaN and n = 0; one with a single kind of label has NaN and its n.
    """
    draws = Resamples(cohort, split, n_bootstrap, seed)
    scores = {}
    for task in tasks:
        part = ScoredRows.select(cohort, task, predictions[task.name], split)
        replicates = part.replicates(draws)
        low, high = interval(replicates)
        scores[task.name] = Score(
            METRICS[task.problem], part.value(), low, high, len(part.rows), part.others(cohort)
        )
    return scores


def compare_predictions(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions_a: Mapping[str, np.ndarray],
    predictions_b: Mapping[str, np.ndarray],
    split: int = TEST,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """The primary metric of ``predictions_a`` minus that of ``predictions_b``, on the same
    resamples of subjects.

    Tasks that one of the two does not predict are left out.
    """
    draws = Resamples(cohort, split, n_bootstrap, seed)
    differences = {}
    for task in tasks:
        if task.name in predictions_a and task.name in predictions_b:
            a, b = (
                ScoredRows.select(cohort, task, p[task.name], split)
                for p in (predictions_a, predictions_b)
            )
            low, high = interval(a.replicates(draws) - b.replicates(draws))
            differences[task.name] = Difference(a.value() - b.value(), low, high, len(a.rows))
    return differences


class Resamples:
    """R bootstrap resamples of the subjects of a split: how often each row is drawn in each."""

    def __init__(self, cohort: Cohort, split: int, n: int, seed: int) -> None:
        rows = cohort.rows(split)
        subjects = np.asarray(cohort.subject_ids)[rows] if cohort.subject_ids is not None else rows
        _, subject_of = np.unique(subjects, return_inverse=True)
        self.position = np.full(len(cohort), -1)
        self.position[rows] = np.arange(len(rows))
        n_subjects = int(subject_of.max()) + 1 if len(rows) else 0
        rng = np.random.default_rng([seed, n_subjects])
        counts = np.empty((n, n_subjects), dtype=np.float32)
        for r in range(n):
            drawn = rng.integers(0, max(n_subjects, 1), n_subjects)
            counts[r] = np.bincount(drawn, minlength=n_subjects) if n_subjects else 0
        self._counts = counts
        self._subject_of = subject_of

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def n_subjects(self) -> int:
        """How many subjects are drawn from."""
        return self._counts.shape[1]

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Counts float32 [R, n] of some rows of the cohort, all of the split."""
        return self._counts[:, self._subject_of[self.position[rows]]]


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of those replicates in which the metric was defined; NaN where
    there is none.
    """
    defined = replicates[np.isfinite(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def simultaneous_bounds(
    values: np.ndarray, replicates: np.ndarray, level: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """One-sided lower and upper bounds [T] that hold for all T values at once, each side with
    probability 1 - level.

    ``replicates`` [R, T] are the values in R resamples that all T share (NaN where one is not
    defined). Each bound lies a number of standard errors away, and that number is the (1 - level)
    quantile of the largest studentised deviation among the T (max-t): it grows with the number of
    values, less where they hang together.

    >>> draws = np.random.default_rng(0).normal(size=(2000, 8))
    >>> alone, _ = simultaneous_bounds(np.zeros(1), draws[:, :1])
    >>> among_eight, _ = simultaneous_bounds(np.zeros(8), draws)
    >>> same_eight_times, _ = simultaneous_bounds(np.zeros(8), np.repeat(draws[:, :1], 8, axis=1))
    >>> alone.round(1), among_eight[:1].round(1), same_eight_times[:1].round(1)
    (array([-1.6]), array([-2.4]), array([-1.6]))
    """
    values = np.asarray(values, dtype=np.float64)
    replicates = np.asarray(replicates, dtype=np.float64)
    if replicates.ndim != 2 or replicates.shape[1:] != values.shape:
        raise ValueError(f"replicates must be [R, {len(values)}], not {replicates.shape}")
    if not np.isfinite(replicates).any(axis=0).all():
        raise ValueError("a value is defined in no resample")
    spread = np.nanstd(replicates, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = (replicates - values) / spread
    # A value that never varies is known; one that is not defined in a resample is left out of it.
    deviation = np.where(np.isfinite(deviation), deviation, 0.0)
    upward, downward = (
        float(np.quantile(side.max(axis=1), 1 - level)) for side in (deviation, -deviation)
    )
    return values - max(upward, 0.0) * spread, values + max(downward, 0.0) * spread


def primary_metric(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, split: int = TEST
) -> float:
    """The primary metric alone, without an interval."""
    return ScoredRows.select(cohort, task, prediction, split).value()


def primary_replicates(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, draws: Resamples, split: int = TEST
):
    """The primary metric [R] in each resample."""
    return ScoredRows.select(cohort, task, prediction, split).replicates(draws)


def calibration_error(happened: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error (ECE): mean distance between probability and share over ten bins
    of equal count.

    ``happened`` 0 or 1 [n], ``probability`` [n]; equal probabilities share a bin. With few rows it
    lies above 0 even for a calibrated model.

    >>> calibration_error(np.array([0, 0, 0, 1]), np.full(4, 0.25))
    0.0
    >>> calibration_error(np.array([0, 1]), np.ones(2))
    0.5
    """
    bins = np.searchsorted(np.quantile(probability, np.arange(1, 10) / 10), probability)
    return float(np.abs(np.bincount(bins, weights=probability - happened)).sum() / len(bins))


def _narrow_to_clusters(cohort: Cohort, split: int) -> Cohort:
    """The cohort in which clusters are judged: with folds the first model's, on what it did not
    see.
    """
    return cohort.for_fold(0) if split == TEST else cohort


@dataclass(frozen=True)
class ScoredRows:
    """One task's labelled rows of a split, with what was predicted for them, and the ``fold`` [n]
    whose model did, where there are several.
    """

    task: TaskSpec
    rows: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    fold: np.ndarray | None = None

    @classmethod
    def select(
        cls, cohort: Cohort, task: TaskSpec, prediction: np.ndarray, split: int
    ) -> ScoredRows:
        prediction = np.asarray(prediction)
        if len(prediction) != len(cohort):
            raise ValueError(
                f"predictions of {task.name!r} have {len(prediction)} rows, the cohort "
                f"{len(cohort)}"
            )
        if task.problem == "clustering":
            cohort = _narrow_to_clusters(cohort, split)
            rows = cohort.rows(split)
            rows = rows[:: max(1, -(-len(rows) // SILHOUETTE_ROWS))]
            clusters = hard_clusters(prediction[rows])
            silhouettes = silhouette_rows(input_space(cohort)[rows], clusters)
            return cls(task, rows, silhouettes, clusters)
        rows = cohort.rows(split)
        if task.name not in cohort.labels:
            rows = rows[:0]
            return cls(task, rows, np.zeros(0), prediction[rows])
        rows = rows[np.asarray(cohort.labelled[task.name])[rows]]
        return cls(
            task,
            rows,
            np.asarray(cohort.labels[task.name], dtype=np.float64)[rows],
            prediction[rows],
            cohort.fold[rows] if split == TEST and cohort.fold is not None else None,
        )

    def value(self) -> float:
        return float(self._metric(np.ones((1, len(self.rows)), dtype=np.float32))[0])

    def replicates(self, draws: Resamples) -> np.ndarray:
        return self._metric(draws.weights(self.rows))

    def _metric(self, weights: np.ndarray) -> np.ndarray:
        if not len(self.rows):
            return np.full(len(weights), np.nan)
        if self.task.problem == "binary":
            return stratified_auroc(self.target, self.prediction, weights, self.fold)
        if self.task.problem == "regression":
            return weighted_r2(self.target, self.prediction, weights)
        if self.task.problem == "clustering":
            if np.isnan(self.target).any():
                return np.full(len(weights), np.nan)
            total = weights.sum(1, dtype=np.float64)
            return np.divide(
                weights @ self.target, total, out=np.full(len(weights), np.nan), where=total > 0
            )
        per_class = np.stack(
            [
                stratified_auroc(self.target == c, self.prediction[:, c], weights, self.fold)
                for c in range(self.prediction.shape[1])
            ]
        )
        is_defined = np.isfinite(per_class)
        total = np.where(is_defined, per_class, 0).sum(0)
        return np.divide(
            total, is_defined.sum(0), out=np.full(len(weights), np.nan), where=is_defined.any(0)
        )

    def others(self, cohort: Cohort) -> dict[str, float]:
        """Further metrics, from scikit-learn but for the ECE; empty where the primary metric is not
        defined.
        """
        from sklearn import metrics

        if not np.isfinite(self.value()):
            return {}
        if self.task.problem == "regression":
            return {"MAE": float(metrics.mean_absolute_error(self.target, self.prediction))}
        if self.task.problem == "clustering":
            sizes = np.unique(self.prediction, return_counts=True)[1]
            space = input_space(cohort.for_fold(0))[self.rows]
            return {
                "clusters": float(len(sizes)),
                "smallest share": float(sizes.min() / sizes.sum()),
                "largest share": float(sizes.max() / sizes.sum()),
                "Davies-Bouldin": float(metrics.davies_bouldin_score(space, self.prediction)),
            }
        probabilities = bool(((self.prediction >= 0) & (self.prediction <= 1)).all())
        if self.task.problem == "multiclass":
            right = self.prediction.argmax(1) == self.target
            values = {"accuracy": float(right.mean())}
            return values | (
                {"ECE": calibration_error(right, self.prediction.max(1))} if probabilities else {}
            )
        values = {
            "AUPRC": float(metrics.average_precision_score(self.target, self.prediction)),
            "positives": float((self.target == 1).sum()),
        }
        if probabilities:
            values["ECE"] = calibration_error(self.target, self.prediction)
            values["Brier score"] = float(metrics.brier_score_loss(self.target, self.prediction))
        return values
