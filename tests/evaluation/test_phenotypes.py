"""Clusters are called phenotypes only where all evidence says so, and are else not described."""

from dataclasses import replace

import numpy as np
import pytest

from m3h_core import Cohort, TaskSpec
from m3h_core.cluster_evidence import ClusterEvidence, Null
from m3h_core.data.cohort import TEST, TRAIN
from m3h_pipeline.evaluation.phenotypes import (
    describe_phenotypes,
    explain_no_phenotypes,
    write_verdict,
)

SICK = TaskSpec("sick", "binary")
TASK = TaskSpec("phenotype", "clustering", classes=3)
EVIDENCE = ClusterEvidence(
    silhouette=0.12,
    kmeans=0.13,
    difference=-0.01,
    low=-0.03,
    high=0.01,
    nulls={"permuted": Null(0.02, 0.03), "correlated": Null(0.06, 0.11)},
    stability=0.8,
)
NAN = float("nan")


def make(n: int = 400, gap: float = 4.0, effect: float = 0.6) -> tuple[Cohort, np.ndarray]:
    """Two groups of inputs, the second more often sick; and a third cluster of nine patients."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, n)
    split = np.where(np.arange(n) < n / 2, TRAIN, TEST)
    cohort = Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=split,
        embeddings={"tabular": rng.normal(size=(n, 8)) + gap * group[:, None]},
        present={"tabular": np.ones(n, bool)},
        labels={"sick": (rng.random(n) < 0.2 + effect * group).astype(float)},
        labelled={"sick": np.ones(n, bool)},
    )
    clusters = group.copy()
    clusters[np.flatnonzero((split == TEST) & (group == 0))[:9]] = 2
    return cohort, np.eye(3)[clusters]


def test_what_is_found_is_described_but_for_small_groups():
    cohort, predictions = make(gap=6.0)
    # As many clusters as are there: the third takes a few only.
    record = describe_phenotypes(cohort, TASK, predictions[:, :2], [SICK])
    assert record["found"], record
    assert record["reasons"] == []
    assert record["silhouette"] > record["nulls"]["correlated"]["high"]
    assert [cluster["differs"] for cluster in record["clusters"]] == [1, 1]
    assert write_verdict(record).startswith("Phenotypes found")


def test_a_group_of_fewer_than_ten_is_hidden(monkeypatch):
    monkeypatch.setattr("m3h_core.cluster_evidence.judge_clusters", lambda *_: EVIDENCE)
    cohort, predictions = make()
    record = describe_phenotypes(cohort, TASK, predictions, [SICK])
    assert record["found"]
    small = record["clusters"][2]
    assert small == {"cluster": 2, "n": None, "compared": 0, "differs": 0, "enriched": []}


def test_what_is_not_found_is_not_described():
    cohort, predictions = make(gap=0.0)
    record = describe_phenotypes(cohort, TASK, predictions[:, :2], [SICK])
    assert not record["found"]
    assert record["clusters"] == []
    assert "no more alike" in record["reasons"][0]
    assert write_verdict(record).startswith("No phenotypes found: patients of a cluster are no")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"silhouette": 0.1}, "no more alike"),
        ({"silhouette": NAN}, "no more alike"),
        ({"nulls": {"permuted": Null(0.02, 0.13), "correlated": Null(0, 0)}}, "no more alike"),
        ({"nulls": {"permuted": Null(NAN, NAN)}}, "no more alike"),
        ({"high": -0.021}, "finds tighter clusters"),
        ({"high": NAN}, "finds tighter clusters"),
        ({"stability": 0.64}, "finds other clusters"),
    ],
)
def test_each_lack_is_a_reason(changed, reason):
    assert explain_no_phenotypes(EVIDENCE, 2) == []
    (given,) = explain_no_phenotypes(replace(EVIDENCE, **changed), 2)
    assert reason in given


def test_clusters_without_a_difference_are_no_phenotypes():
    (reason,) = explain_no_phenotypes(EVIDENCE, 1)
    assert "fewer than two clusters differ" in reason


def test_results_of_an_earlier_version_are_not_judged():
    assert write_verdict({"task": "phenotype", "clusters": []}).startswith("Not judged")
