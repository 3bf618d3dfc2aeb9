"""Whether clusters are there at all: beside k-means, beside inputs without clusters, and beside
those of resampled patients.

Shapes: N samples of the cohort; n rows that are looked at, the training rows first, then m that are
judged; F inputs, C components, c clusters, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from m3h_core.clusters import cluster_stability
from m3h_core.data.cohort import TEST, TRAIN, Cohort
from m3h_core.data.inputs import CLIP
from m3h_core.data.nulls import NullInputs
from m3h_core.data.silhouette import hard_clusters, silhouette_rows, standardize_modalities
from m3h_core.data.tasks import TaskSpec
from m3h_core.metrics import SILHOUETTE_ROWS, Resamples, interval

# Bounds the time that the nulls take; k-means on more rows finds much the same.
_TRAINING_ROWS = 1500


@dataclass(frozen=True)
class Null:
    """The silhouettes that are had where there are no clusters: mean and 95th percentile.

    Of 20 draws the percentile is their largest, which one more draw exceeds once in 21 times.
    """

    mean: float
    high: float


@dataclass(frozen=True)
class ClusterEvidence:
    """What speaks for the clusters of a task, on the rows of one split.

    All silhouettes are means over the same rows in the space of `input_space`. ``silhouette`` is
    the prediction's; ``kmeans`` that of k-means with as many clusters, on principal components,
    both fitted on training rows; ``difference`` is the former minus the latter, with a 95% interval
    over subjects, ``low`` and ``high``. ``nulls`` holds "permuted" and "correlated", see
    :func:`judge_clusters`. ``stability`` is the mean adjusted Rand index of the prediction's
    clusters and those that k-means finds in resampled training subjects: 1 where they come again,
    near 0 by chance. What can't be said of a single cluster is NaN.
    """

    silhouette: float
    kmeans: float
    difference: float
    low: float
    high: float
    nulls: Mapping[str, Null]
    stability: float


def judge_clusters(
    cohort: Cohort,
    task: TaskSpec,
    prediction: np.ndarray,
    n_components: int = 16,
    split: int = TEST,
    n_draws: int = 20,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> ClusterEvidence:
    """Hold the clusters of a task against k-means, two nulls and resampled patients.

    ``prediction`` [N] or [N, c] as ``FittedModel.predict`` returns it. A null is drawn ``n_draws``
    times, and components and k-means are fitted to each draw anew. "permuted": the columns of the
    inputs are permuted independently. "correlated": they are permuted together, so that they keep
    their correlations (see `NullInputs`). No network is trained on a null: that would take a night,
    and k-means finds clusters that are at least as tight. Raises ValueError for a task that is no
    clustering, another number of rows, or fewer training rows than clusters.
    """
    if task.problem != "clustering":
        raise ValueError(f"task {task.name!r} is {task.problem}, not clustering")
    if len(prediction) != len(cohort):
        raise ValueError(
            f"predictions of {task.name!r} have {len(prediction)} rows, the cohort {len(cohort)}"
        )
    train_rows = _thin(cohort.rows(TRAIN), _TRAINING_ROWS)
    rows = _thin(cohort.rows(split), SILHOUETTE_ROWS)
    assigned = hard_clusters(prediction)
    n_clusters = prediction.shape[1] if prediction.ndim == 2 else int(assigned.max()) + 1
    values_nF, present_nF, limit_F = _read_inputs(cohort, np.concatenate([train_rows, rows]))
    procedure = _KMeansOnComponents(len(train_rows), limit_F, n_components, n_clusters)

    clusters = assigned[rows]
    own_m = silhouette_rows(values_nF[len(train_rows) :], clusters)
    kmeans_m = procedure.silhouettes(values_nF)
    weights_Rm = Resamples(cohort, split, n_bootstrap, seed).weights(rows).astype(np.float64)
    low, high = interval(weights_Rm @ (own_m - kmeans_m) / weights_Rm.sum(1))

    rng = np.random.default_rng(seed)
    null = NullInputs(values_nF, present_nF)
    nulls = {
        "permuted": _summarize(procedure, null.permuted(rng, n_draws)),
        "correlated": _summarize(procedure, null.correlated(rng, n_draws)),
    }
    subjects = cohort.subjects[train_rows]
    again = [
        cluster_stability([clusters, resampled])
        for resampled in procedure.resampled(values_nF, subjects, rng, n_draws)
    ]
    return ClusterEvidence(
        silhouette=float(own_m.mean()),
        kmeans=float(kmeans_m.mean()),
        difference=float((own_m - kmeans_m).mean()),
        low=float(low),
        high=float(high),
        nulls=nulls,
        stability=float(np.mean(again)),
    )


def _summarize(procedure: _KMeansOnComponents, draws: Iterable[np.ndarray]) -> Null:
    silhouettes = np.array([procedure.silhouettes(values_nF).mean() for values_nF in draws])
    # A draw of which all judged rows are in one cluster has none to compare with.
    silhouettes = silhouettes[np.isfinite(silhouettes)]
    if not len(silhouettes):
        return Null(float("nan"), float("nan"))
    return Null(float(silhouettes.mean()), float(np.quantile(silhouettes, 0.95, method="higher")))


@dataclass(frozen=True)
class _KMeansOnComponents:
    """k-means on principal components, both fitted on the first ``n_train`` rows; the others are
    judged.
    """

    n_train: int
    limit_F: np.ndarray
    n_components: int
    n_clusters: int

    def silhouettes(self, values_nF: np.ndarray) -> np.ndarray:
        """Of each judged row [m], in the inputs."""
        clusters = self._assign(self._components(values_nF))
        return silhouette_rows(values_nF[self.n_train :], clusters)

    def resampled(
        self, values_nF: np.ndarray, subjects: np.ndarray, rng: np.random.Generator, n_draws: int
    ) -> Iterator[np.ndarray]:
        """The clusters [m] of the judged rows, from resampled subjects of the training rows."""
        components_nC = self._components(values_nF)
        names, place = np.unique(subjects, return_inverse=True)
        for _ in range(n_draws):
            drawn = rng.integers(0, len(names), len(names))
            counts = np.bincount(drawn, minlength=len(names))
            yield self._assign(components_nC, counts[place])

    def _components(self, values_nF: np.ndarray) -> np.ndarray:
        from sklearn.decomposition import PCA

        clipped_nF = values_nF.clip(-self.limit_F, self.limit_F)
        most = min(self.n_train, clipped_nF.shape[1])
        pca = PCA(min(self.n_components, most), svd_solver="randomized", random_state=0)
        return pca.fit(clipped_nF[: self.n_train]).transform(clipped_nF)

    def _assign(self, components_nC: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        from sklearn.cluster import KMeans

        kmeans = KMeans(self.n_clusters, n_init=4, random_state=0)
        kmeans.fit(components_nC[: self.n_train], sample_weight=weights)
        return kmeans.predict(components_nC[self.n_train :])


def _read_inputs(cohort: Cohort, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`input_space` of some rows [n, F], which of its values are there, and where the network cuts
    a column [F].
    """
    values = []
    present = []
    limits = []
    for name, z in standardize_modalities(cohort).items():
        width = z.shape[1]
        if not width:
            continue
        values.append(z[rows] / np.sqrt(width))
        present.append(np.repeat(np.asarray(cohort.present[name])[rows, None], width, axis=1))
        limits.append(np.full(width, CLIP / np.sqrt(width)))
    if not values:
        raise ValueError("no input varies among the training rows")
    return (
        np.hstack(values).astype(np.float32),
        np.hstack(present),
        np.concatenate(limits).astype(np.float32),
    )


def _thin(rows: np.ndarray, most: int) -> np.ndarray:
    """Every so many of the rows, at most ``most``."""
    return rows[:: max(1, -(-len(rows) // most))]
