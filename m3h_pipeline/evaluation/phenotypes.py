"""What sets the clusters of a phenotyping task apart, on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_pipeline.evaluation.scores import count_patients, round_value

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.clusters import Enrichment

_MOST_ENRICHED = 5


def describe_phenotypes(
    cohort: Cohort, task: TaskSpec, predictions: np.ndarray, outcomes: Sequence[TaskSpec]
) -> dict[str, Any]:
    """The clusters, each with what is more or less frequent in it than outside."""
    from m3h_core.clusters import cluster_enrichment
    from m3h_core.data.silhouette import hard_clusters

    clusters = hard_clusters(predictions)
    comparisons = [
        one for one in cluster_enrichment(cohort, task, predictions, outcomes) if not one.suppressed
    ]
    records = []
    for cluster in np.unique(clusters):
        of_cluster = [one for one in comparisons if one.cluster == cluster]
        differing = [one for one in of_cluster if one.q_value < 0.05]
        strongest = sorted(differing, key=lambda one: one.p_value)[:_MOST_ENRICHED]
        records.append(
            {
                "cluster": int(cluster),
                "n": count_patients(cohort, clusters == cluster),
                "compared": len(of_cluster),
                "differs": len(differing),
                "enriched": [_describe_enrichment(one) for one in strongest],
            }
        )
    return {"task": task.name, "clusters": records}


def _describe_enrichment(enrichment: Enrichment) -> dict[str, Any]:
    record: dict[str, Any] = {"task": enrichment.outcome, "q": round_value(enrichment.q_value)}
    for name in ("inside", "outside", "difference", "low", "high"):
        record[name] = round_value(getattr(enrichment, name))
    return record
