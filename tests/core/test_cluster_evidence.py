"""Clusters held against k-means, inputs without clusters, and resampled patients."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from synthetic import TASKS, make_cohort

from m3h_core import Cohort
from m3h_core.cluster_evidence import ClusterEvidence, judge_clusters
from m3h_core.data.cohort import TEST, TRAIN
from m3h_core.data.nulls import NullInputs
from m3h_core.data.silhouette import input_space, silhouette_rows

PHENOTYPE = TASKS[-1]


def make_cloud(seed: int, n: int = 300, shape: str = "long") -> Cohort:
    """Correlated inputs without clusters; a third of the samples lacks the second modality."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 12)) + rng.normal(size=(n, 12))
    if shape == "skewed":
        values = np.exp(values / 2)
    present = {"tabular": np.ones(n, bool), "timeseries": rng.random(n) < 2 / 3}
    return Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=np.where(np.arange(n) < 0.6 * n, TRAIN, TEST),
        embeddings={"tabular": values[:, :6], "timeseries": values[:, 6:]},
        present=present,
        labels={},
        labelled={},
    )


def cluster(cohort: Cohort, n_clusters: int) -> np.ndarray:
    """The best that a clustering can do: k-means, in the space in which it is judged."""
    space = input_space(cohort)
    kmeans = KMeans(n_clusters, n_init=4, random_state=0).fit(space[cohort.rows(TRAIN)])
    return np.eye(n_clusters)[kmeans.predict(space)]


def judge_kmeans(cohort: Cohort, n_clusters: int) -> ClusterEvidence:
    return judge_clusters(cohort, PHENOTYPE, cluster(cohort, n_clusters), n_bootstrap=2)


def is_above_nulls(evidence: ClusterEvidence) -> bool:
    """Of k-means itself, so that what is tested and the nulls are made in the same way."""
    return all(evidence.kmeans > null.high for null in evidence.nulls.values())


def test_planted_clusters_stand_out_and_come_again():
    cohort = make_cohort(500)
    planted = np.eye(3)[[int(group) for group in cohort.groups["cluster"]]]
    evidence = judge_clusters(cohort, PHENOTYPE, planted)
    test = cohort.rows(TEST)
    space = input_space(cohort)[test]
    assert evidence.silhouette == pytest.approx(
        silhouette_rows(space, planted[test].argmax(1)).mean(), abs=1e-6
    )
    for null in evidence.nulls.values():
        assert null.mean <= null.high < evidence.silhouette - 0.05
    assert evidence.stability > 0.8
    assert evidence.low <= evidence.difference <= evidence.high
    assert evidence.difference == pytest.approx(evidence.silhouette - evidence.kmeans, abs=1e-6)
    assert is_above_nulls(evidence)


def test_clusters_that_are_drawn_by_lot_do_not():
    cohort = make_cohort(500)
    lot = np.random.default_rng(1).integers(0, 3, len(cohort))
    evidence = judge_clusters(cohort, PHENOTYPE, lot)
    assert evidence.silhouette < evidence.nulls["permuted"].mean
    assert evidence.high < -0.05
    assert abs(evidence.stability) < 0.05


@pytest.mark.slow(10)
@pytest.mark.parametrize("shape", ["long", "skewed"])
def test_a_cloud_without_clusters_seldom_stands_out(shape):
    # Once in 21 times would be right: two of four come about in 1% of all tries.
    evidence = [judge_kmeans(make_cloud(seed, shape=shape), 2 + seed % 2) for seed in range(4)]
    assert sum(map(is_above_nulls, evidence)) < 2


def test_a_long_cloud_stands_out_from_independent_columns_only():
    evidence = judge_kmeans(make_cloud(0), 2)
    assert evidence.nulls["permuted"].high < evidence.silhouette
    assert evidence.silhouette < evidence.nulls["correlated"].high


def test_the_same_evidence_whatever_other_splits_hold():
    cohort = make_cohort(300)
    assigned = np.eye(3)[[int(group) for group in cohort.groups["cluster"]]]
    used = np.isin(cohort.split, [TRAIN, TEST])
    moved = {
        name: np.where(used[:, None], values, 1000.0) for name, values in cohort.embeddings.items()
    }
    swapped = np.where(used[:, None], assigned, assigned[:, ::-1])
    assert judge_clusters(
        replace(cohort, embeddings=moved), PHENOTYPE, swapped, n_draws=2
    ) == judge_clusters(cohort, PHENOTYPE, assigned, n_draws=2)


def test_a_single_cluster_has_no_evidence():
    cohort = make_cohort(200)
    evidence = judge_clusters(cohort, PHENOTYPE, np.eye(3)[np.zeros(200, int)], n_draws=2)
    assert np.isnan([evidence.silhouette, evidence.difference, evidence.low]).all()
    assert evidence.stability == pytest.approx(0)


@pytest.mark.parametrize("kind", ["permuted", "correlated"])
def test_a_null_keeps_each_columns_values_and_what_is_missing(kind):
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(200, 1)) + rng.exponential(size=(200, 4))
    present = np.repeat(rng.random((200, 2)) < 0.7, 2, axis=1)
    values[~present] = 0
    (drawn,) = getattr(NullInputs(values, present), kind)(rng, 1)
    np.testing.assert_array_equal(np.sort(drawn, axis=0), np.sort(values, axis=0))
    assert (drawn[~present] == 0).all()
    both = present.all(1)
    correlation = np.corrcoef(drawn[both].T)[0, 1]
    assert (correlation > 0.3) == (kind == "correlated")


def test_what_is_no_clustering_is_refused():
    cohort = make_cloud(0)
    with pytest.raises(ValueError, match="task 'death' is binary, not clustering"):
        judge_clusters(cohort, TASKS[0], np.zeros(300))
    with pytest.raises(ValueError, match="'phenotype' have 3 rows, the cohort 300"):
        judge_clusters(cohort, PHENOTYPE, np.zeros(3))
