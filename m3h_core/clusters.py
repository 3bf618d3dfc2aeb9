"""Clusters as findings: whether they come again, and what their patients have.

Shapes: N samples of the cohort, c clusters, R resamples, l rows of a split where an outcome is
labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from m3h_core.data.cohort import TEST, Cohort
from m3h_core.data.silhouette import hard_clusters
from m3h_core.data.tasks import TaskSpec
from m3h_core.metrics import Resamples, interval

# A smaller group of patients is neither described nor compared.
FEWEST_TO_DESCRIBE = 10


@dataclass(frozen=True)
class Enrichment:
    """How often, or how much, an outcome is seen in one cluster, beside all others.

    ``inside`` and ``outside`` are shares for a binary outcome and means in the task's unit for
    regression, over the ``n`` labelled rows in the cluster and those outside; ``difference`` is
    inside minus outside with a 95% interval over subjects. ``q_value`` is the p-value adjusted for
    all comparisons that were made (Benjamini-Hochberg). Where either side has fewer than 10
    patients the comparison is suppressed: ``n`` is None and all numbers are NaN.
    """

    cluster: int
    outcome: str
    n: int | None = None
    inside: float = float("nan")
    outside: float = float("nan")
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    q_value: float = float("nan")

    @property
    def suppressed(self) -> bool:
        """Whether the groups are too small to be described."""
        return self.n is None


def cluster_stability(assignments: Sequence[np.ndarray]) -> float:
    """Mean adjusted Rand index of each pair of clusterings of the same rows: 1 where they agree,
    near 0 by chance.

    ``assignments``, one for each seed, are clusters [N], or soft assignments [N, c] of which the
    likeliest counts; what a cluster is called makes no difference. Raises ValueError for fewer than
    two, or for different rows.

    >>> cluster_stability([np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    if len(assignments) < 2:
        raise ValueError(f"stability needs two clusterings or more, not {len(assignments)}")
    clusterings = [hard_clusters(assignment) for assignment in assignments]
    if len({len(clusters) for clusters in clusterings}) > 1:
        raise ValueError("the clusterings are of different numbers of rows")
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(clusterings, 2)]))


def cluster_enrichment(
    cohort: Cohort,
    task: TaskSpec,
    prediction: np.ndarray,
    outcomes: Sequence[TaskSpec],
    split: int = TEST,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[Enrichment]:
    """What sets the clusters of a task apart: each cluster of a split against all others, for each
    outcome.

    ``prediction`` [N] or [N, c] as ``FittedModel.predict`` returns it. Outcomes are binary and
    regression tasks; others are left out. The test is Fisher's for binary and Mann-Whitney's for
    regression, on the first labelled row of each subject, because rows of one patient are not
    independent. Clusters come in order, and within them outcomes. Raises ValueError for a task that
    is no clustering, or another number of rows.

    >>> cohort = Cohort(
    ...     sample_ids=[str(i) for i in range(40)], split=np.full(40, 3), embeddings={}, present={},
    ...     labels={"death": np.arange(40) % 20 < 5.0}, labelled={"death": np.ones(40, bool)})
    >>> task = TaskSpec("phenotype", "clustering")
    >>> first, _ = cluster_enrichment(
    ...     cohort, task, np.arange(40) % 20 >= 10, [TaskSpec("death", "binary")])
    >>> first.cluster, first.outcome, first.n, first.inside, first.outside, first.q_value < 0.05
    (0, 'death', 20, 0.5, 0.0, True)
    """
    if task.problem != "clustering":
        raise ValueError(f"task {task.name!r} is {task.problem}, not clustering")
    if len(prediction) != len(cohort):
        raise ValueError(
            f"predictions of {task.name!r} have {len(prediction)} rows, the cohort {len(cohort)}"
        )
    clusters = hard_clusters(prediction)
    names = np.unique(clusters[cohort.rows(split)])
    draws = Resamples(cohort, split, n_bootstrap, seed)
    by_outcome = [
        _compare_clusters(cohort, clusters, names, outcome, draws, split)
        for outcome in outcomes
        if outcome.problem in ("binary", "regression")
    ]
    return _adjust_p_values(
        [comparison for of_cluster in zip(*by_outcome, strict=True) for comparison in of_cluster]
    )


def _compare_clusters(
    cohort: Cohort,
    clusters: np.ndarray,
    names: np.ndarray,
    outcome: TaskSpec,
    draws: Resamples,
    split: int,
) -> list[Enrichment]:
    """One outcome in each of the clusters, without the adjusted p-values."""
    rows = cohort.rows(split)
    labelled = cohort.labelled.get(outcome.name, np.zeros(len(cohort), dtype=bool))
    rows = rows[np.asarray(labelled)[rows]]
    target_l = np.asarray(cohort.labels.get(outcome.name, labelled), dtype=np.float64)[rows]
    subjects = np.asarray(cohort.subject_ids)[rows] if cohort.subject_ids is not None else rows
    first = np.unique(subjects, return_index=True)[1]
    weights_Rl = draws.weights(rows)
    comparisons = []
    for cluster in names:
        inside_l = clusters[rows] == cluster
        a = target_l[first][inside_l[first]]
        b = target_l[first][~inside_l[first]]
        if min(len(a), len(b)) < FEWEST_TO_DESCRIBE:
            comparisons.append(Enrichment(int(cluster), outcome.name))
            continue
        inside = target_l[inside_l].mean()
        outside = target_l[~inside_l].mean()
        inside_R = _weighted_means(weights_Rl, target_l, inside_l)
        outside_R = _weighted_means(weights_Rl, target_l, ~inside_l)
        numbers = (
            inside,
            outside,
            inside - outside,
            *interval(inside_R - outside_R),
            _p_value(outcome, a, b),
        )
        comparisons.append(
            Enrichment(int(cluster), outcome.name, int(inside_l.sum()), *map(float, numbers))
        )
    return comparisons


def _weighted_means(
    weights_Rl: np.ndarray, target_l: np.ndarray, chosen_l: np.ndarray
) -> np.ndarray:
    """Weighted means [R] of some rows; NaN where these have no weight."""
    weights = weights_Rl[:, chosen_l].astype(np.float64)
    total = weights.sum(1)
    return np.divide(
        weights @ target_l[chosen_l], total, out=np.full(len(total), np.nan), where=total > 0
    )


def _p_value(outcome: TaskSpec, a: np.ndarray, b: np.ndarray) -> float:
    """The probability of a difference as large, if the outcome has the same distribution in both
    groups.
    """
    from scipy.stats import fisher_exact, mannwhitneyu

    if outcome.problem == "regression":
        return float(mannwhitneyu(a, b).pvalue)
    return float(
        fisher_exact([[(a == 1).sum(), (a != 1).sum()], [(b == 1).sum(), (b != 1).sum()]]).pvalue
    )


def _adjust_p_values(comparisons: list[Enrichment]) -> list[Enrichment]:
    """With q-values, over all comparisons that were made."""
    from scipy.stats import false_discovery_control

    compared = [i for i, one in enumerate(comparisons) if not one.suppressed]
    if compared:
        adjusted = false_discovery_control([comparisons[i].p_value for i in compared])
        for i, q_value in zip(compared, adjusted, strict=True):
            comparisons[i] = replace(comparisons[i], q_value=float(q_value))
    return comparisons
