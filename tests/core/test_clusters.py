"""Clusters as findings: whether they come again, and what their patients have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, mannwhitneyu
from synthetic import TASKS, make_cohort

from m3h_core import Cohort, TaskSpec, cluster_enrichment, cluster_stability
from m3h_core.data.cohort import TEST, TRAIN

PHENOTYPE = TASKS[-1]
SICK = TaskSpec("sick", "binary")
STAY = TaskSpec("stay", "regression", unit="days")


def make(seed: int, effect: float = 0.0, n: int = 300, stays: int = 1):
    """Subjects in three clusters, each with ``stays`` samples alike; the last cluster has more of
    both outcomes.
    """
    rng = np.random.default_rng(seed)
    cluster = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    labels = {
        "sick": (rng.random(n) < 0.2 + effect * (cluster == 2)).astype(float),
        "stay": rng.exponential(4, n) * (1 + 3 * effect * (cluster == 2)),
    }
    labels = {name: np.repeat(values, stays) for name, values in labels.items()}
    total = n * stays
    cohort = Cohort(
        [str(i) for i in range(total)],
        np.full(total, TEST),
        {},
        {},
        labels,
        {name: np.ones(total, bool) for name in labels},
        subject_ids=[f"p{i // stays}" for i in range(total)],
    )
    return cohort, np.repeat(cluster, stays)


def test_enrichment_says_what_was_planted():
    cohort, clusters = make(0, effect=0.4)
    comparisons = cluster_enrichment(cohort, PHENOTYPE, np.eye(3)[clusters], [SICK, STAY, TASKS[3]])
    assert [(one.cluster, one.outcome) for one in comparisons] == [
        (c, t) for c in range(3) for t in ("sick", "stay")
    ]
    for one in comparisons:
        inside = clusters == one.cluster
        a = cohort.labels[one.outcome][inside]
        b = cohort.labels[one.outcome][~inside]
        assert (one.n, one.inside, one.outside) == (
            len(a),
            pytest.approx(a.mean()),
            pytest.approx(b.mean()),
        )
        assert one.difference == pytest.approx(a.mean() - b.mean())
        assert one.low < one.difference < one.high
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=0.15)
        table = [[a.sum(), (1 - a).sum()], [b.sum(), (1 - b).sum()]]
        expected = fisher_exact(table) if one.outcome == "sick" else mannwhitneyu(a, b)
        assert one.p_value == pytest.approx(expected.pvalue)
        assert one.p_value <= one.q_value
        if one.cluster == 2:
            assert one.low > 0
            assert one.q_value < 0.001
    ranked = sorted(one.p_value for one in comparisons)
    assert min(one.q_value for one in comparisons) == pytest.approx(
        min(p * 6 / (i + 1) for i, p in enumerate(ranked))
    )


def test_nothing_is_found_where_there_is_nothing():
    """Of 100 cohorts without an effect, about 5 give one q-value below .05; repeated stays of a
    patient add nothing.
    """
    for stays in (1, 4):
        false = 0
        for seed in range(100):
            cohort, clusters = make(seed, n=150, stays=stays)
            comparisons = cluster_enrichment(
                cohort, PHENOTYPE, clusters, [SICK, STAY], n_bootstrap=1
            )
            false += min(one.q_value for one in comparisons) < 0.05
        assert false <= 12, stays


def test_intervals_are_over_subjects():
    comparisons = []
    for stays in (1, 4):
        cohort, clusters = make(1, stays=stays)
        comparisons.append(cluster_enrichment(cohort, PHENOTYPE, clusters, [SICK])[0])
    once, again = comparisons
    assert again.n == 4 * once.n
    assert (again.p_value, again.difference) == (
        pytest.approx(once.p_value),
        pytest.approx(once.difference),
    )
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.1)


def test_small_groups_are_suppressed_and_count_for_nothing():
    cohort, clusters = make(2)
    clusters = np.where(np.arange(300) < 9, 3, clusters)  # 9 patients
    labelled = {"sick": (clusters != 0) | (np.arange(300) < 60), "stay": np.ones(300, bool)}
    none = TaskSpec("none", "binary")
    comparisons = cluster_enrichment(
        replace(cohort, labelled=labelled), PHENOTYPE, clusters, [SICK, STAY, none]
    )
    hidden = {(one.cluster, one.outcome) for one in comparisons if one.suppressed}
    assert hidden == {(3, "sick"), (3, "stay"), *((c, "none") for c in range(4))}
    for one in comparisons:
        numbers = (
            one.inside,
            one.outside,
            one.difference,
            one.low,
            one.high,
            one.p_value,
            one.q_value,
        )
        assert np.isnan(numbers).all() if one.suppressed else np.isfinite(numbers).all()
        assert (one.n is None) == one.suppressed
    ten = cluster_enrichment(cohort, PHENOTYPE, np.where(np.arange(300) < 10, 3, clusters), [SICK])
    assert not any(one.suppressed for one in ten)
    # Nine patients do not become a group by coming twice.
    cohort, clusters = make(2, stays=2)
    twice = cluster_enrichment(
        cohort, PHENOTYPE, np.where(np.arange(600) < 18, 3, clusters), [SICK]
    )
    assert [one.suppressed for one in twice] == [False, False, False, True]


def test_only_labelled_rows_of_the_split_are_read():
    cohort, clusters = make(3, effect=0.2)
    unread = np.arange(300) % 5 == 0
    before = replace(cohort, labelled=dict.fromkeys(cohort.labels, ~unread))
    labels = {name: np.where(unread, np.nan, values) for name, values in cohort.labels.items()}
    comparisons = cluster_enrichment(before, PHENOTYPE, clusters, [SICK, STAY])
    assert (
        cluster_enrichment(replace(before, labels=labels), PHENOTYPE, clusters, [SICK, STAY])
        == comparisons
    )
    elsewhere = replace(cohort, split=np.where(unread, TRAIN, TEST))
    moved = np.where(unread, 7, clusters)
    assert [one.n for one in cluster_enrichment(elsewhere, PHENOTYPE, moved, [SICK, STAY])] == [
        one.n for one in comparisons
    ]
    assert cluster_enrichment(cohort, PHENOTYPE, clusters, [SICK, STAY], split=TRAIN) == []


def test_what_is_no_clustering_is_refused():
    cohort = make_cohort(40)
    with pytest.raises(ValueError, match="task 'death' is binary, not clustering"):
        cluster_enrichment(cohort, TASKS[0], np.zeros(40), [SICK])
    with pytest.raises(ValueError, match="'phenotype' have 3 rows, the cohort 40"):
        cluster_enrichment(cohort, PHENOTYPE, np.zeros(3), [SICK])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=40), st.permutations(range(5)), st.randoms()
)
def test_stability_does_not_depend_on_names_or_order(clusters, names, random):
    clusters = np.array(clusters)
    renamed = np.array(names)[clusters]
    assert cluster_stability([clusters, renamed, np.eye(5)[clusters]]) == pytest.approx(1)
    other = clusters.copy()
    random.shuffle(other)
    assert cluster_stability([clusters, other]) == pytest.approx(
        cluster_stability([other, renamed])
    )


def test_stability_is_the_mean_over_pairs_and_near_0_by_chance():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 2000))
    assert abs(cluster_stability([a, b])) < 0.02
    assert cluster_stability([a, a, b]) == pytest.approx(1 / 3, abs=0.02)
    with pytest.raises(ValueError, match="two clusterings or more, not 1"):
        cluster_stability([a])
    with pytest.raises(ValueError, match="different numbers of rows"):
        cluster_stability([a, b[:5]])
