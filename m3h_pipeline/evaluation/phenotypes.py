"""Whether the clusters of a phenotyping task are phenotypes, and what sets them apart, on patients
that the model did not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.evaluation.scores import count_patients, round_value

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.cluster_evidence import ClusterEvidence
    from m3h_core.clusters import Enrichment

_MOST_ENRICHED = 5
_FDR = 0.05

# What the silhouette may lie below that of k-means, as `gate.margin` by default.
_MARGIN = 0.02
# Recovery of clusters is poor below an adjusted Rand index of 0.65 (Steinley 2004).
_LEAST_STABILITY = 0.65


def describe_phenotypes(
    cohort: Cohort,
    task: TaskSpec,
    predictions: np.ndarray,
    outcomes: Sequence[TaskSpec],
) -> dict[str, Any]:
    """Whether the clusters are phenotypes; and if so, what is more or less frequent in each than
    outside, on the test split.

    ``cohort`` is the whole, as the model that clusters it saw it: k-means and the nulls learn from
    its training split, and its test split is the first fold where there are folds.
    """
    from threadpoolctl import threadpool_limits

    from m3h_core.cluster_evidence import judge_clusters
    from m3h_core.clusters import cluster_enrichment

    # k-means is run a hundred times on few rows: more threads mostly wait for one another, and on
    # a machine that others use as well for many times as long.
    with threadpool_limits(1):
        evidence = judge_clusters(cohort, task, predictions)
    comparisons = [
        one for one in cluster_enrichment(cohort, task, predictions, outcomes) if not one.suppressed
    ]
    n_apart = len({one.cluster for one in comparisons if one.q_value < _FDR})
    reasons = explain_no_phenotypes(evidence, n_apart)
    return {
        "task": task.name,
        "found": not reasons,
        "reasons": reasons,
        **_describe_evidence(evidence),
        # What is no phenotype is not described as if it were one.
        "clusters": [] if reasons else _describe_clusters(cohort, predictions, comparisons),
    }


def explain_no_phenotypes(evidence: ClusterEvidence, n_apart: int) -> list[str]:
    """Why the clusters of a task are no phenotypes; nothing where they are.

    ``n_apart``: how many clusters differ from all others in an outcome. What could not be computed
    speaks against them.
    """
    reasons = []
    if not all(evidence.silhouette > null.high for null in evidence.nulls.values()):
        reasons.append(
            "patients of a cluster are no more alike than where the same inputs have no clusters"
        )
    if not evidence.high >= -_MARGIN:
        reasons.append("k-means on the principal components finds tighter clusters")
    if not evidence.stability >= _LEAST_STABILITY:
        reasons.append("k-means on resampled patients finds other clusters")
    if n_apart < 2:
        reasons.append("fewer than two clusters differ from all others in an outcome")
    return reasons


def write_verdict(record: Mapping[str, Any]) -> str:
    """Whether a task's clusters are phenotypes, as a sentence; ``record``: its part of detail.json.

    >>> write_verdict({"found": False, "reasons": ["k-means finds tighter clusters"]})
    'No phenotypes found: k-means finds tighter clusters.'
    """
    if "found" not in record:
        return "Not judged whether there are phenotypes: an earlier version made these results."
    if not record["found"]:
        return f"No phenotypes found: {'; '.join(record['reasons'])}."
    return (
        "Phenotypes found: patients of a cluster are more alike than where the same inputs have no "
        "clusters, k-means finds none that are clearly tighter, they come again among resampled "
        "patients, and they differ in outcomes."
    )


def _describe_evidence(evidence: ClusterEvidence) -> dict[str, Any]:
    record: dict[str, Any] = {
        name: round_value(getattr(evidence, name))
        for name in ("silhouette", "kmeans", "difference", "low", "high", "stability")
    }
    record["nulls"] = {
        name: {"mean": round_value(null.mean), "high": round_value(null.high)}
        for name, null in evidence.nulls.items()
    }
    return record


def _describe_clusters(
    cohort: Cohort, predictions: np.ndarray, comparisons: Sequence[Enrichment]
) -> list[dict[str, Any]]:
    from m3h_core.data.silhouette import hard_clusters

    clusters = hard_clusters(predictions)
    is_test = cohort.split == TEST
    records = []
    for cluster in np.unique(clusters[is_test]):
        of_cluster = [one for one in comparisons if one.cluster == cluster]
        differing = [one for one in of_cluster if one.q_value < _FDR]
        strongest = sorted(differing, key=lambda one: one.p_value)[:_MOST_ENRICHED]
        records.append(
            {
                "cluster": int(cluster),
                "n": count_patients(cohort, is_test & (clusters == cluster)),
                "compared": len(of_cluster),
                "differs": len(differing),
                "enriched": [_describe_enrichment(one) for one in strongest],
            }
        )
    return records


def _describe_enrichment(enrichment: Enrichment) -> dict[str, Any]:
    record: dict[str, Any] = {"task": enrichment.outcome, "q": round_value(enrichment.q_value)}
    for name in ("inside", "outside", "difference", "low", "high"):
        record[name] = round_value(getattr(enrichment, name))
    return record
