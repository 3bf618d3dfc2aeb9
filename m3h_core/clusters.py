"""Starting points for deep embedded clustering: k-means centres, and how many of them.

Shapes: n rows, D width of the embedding, F inputs, c clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from m3h_core.metrics import silhouette_rows

_ROWS_TO_JUDGE = 2000


def start_centres(
    z_nD: np.ndarray, judged_D: np.ndarray, space_F: np.ndarray, n_clusters: int | None, max_clusters: int, seed: int
) -> np.ndarray:
    """Centres [c, D] of the training embeddings ``z_nD``.

    Where ``n_clusters`` is not given, it is the number from 2 to ``max_clusters`` whose clusters of the rows
    ``judged_D`` have the best mean silhouette in the fixed input space ``space_F`` of the same rows. An embedding of
    fewer rows than clusters raises ValueError.
    """
    if n_clusters:
        if n_clusters > len(z_nD):
            raise ValueError(f"{n_clusters} clusters need as many training rows, there are {len(z_nD)}")
        return _k_means(z_nD, n_clusters, seed).cluster_centers_
    rows = np.arange(0, len(judged_D), max(1, -(-len(judged_D) // _ROWS_TO_JUDGE)))
    best, chosen = -np.inf, np.repeat(z_nD[:1], 2, axis=0)
    for k in range(2, min(max_clusters, len(z_nD)) + 1):
        means = _k_means(z_nD, k, seed)
        silhouette = float(np.mean(silhouette_rows(space_F[rows], means.predict(judged_D[rows]))))
        if silhouette > best:
            best, chosen = silhouette, means.cluster_centers_
    return chosen


def _k_means(z_nD: np.ndarray, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(n_clusters=k, n_init=4, random_state=seed).fit(z_nD)
