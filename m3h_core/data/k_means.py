"""k-means: where clusters start from, and how many there are.

Shapes: n training rows, m rows to judge by, D width of an embedding, F inputs, c clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from m3h_core.data.silhouette import silhouette_rows

_ROWS_TO_JUDGE = 2000


def k_means_centres(z_nD: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Centres [c, D] of an embedding; ValueError where it has fewer rows than clusters.

    >>> k_means_centres(np.array([[0.0], [0.2], [9.0]]), 2, seed=0).round(1).tolist()
    [[0.1], [9.0]]
    """
    if n_clusters > len(z_nD):
        raise ValueError(f"{n_clusters} clusters need as many training rows, there are {len(z_nD)}")
    return _fit_k_means(z_nD, n_clusters, seed).cluster_centers_


def choose_n_clusters(
    z_nD: np.ndarray, judged_mD: np.ndarray, space_mF: np.ndarray, largest: int
) -> int:
    """The number of clusters from 2 to ``largest`` with the best mean silhouette.

    k-means is fitted on the rows ``z_nD``; judged are the clusters of the rows ``judged_mD``, in
    the space ``space_mF`` of the same rows. 2 where nothing can be judged.
    """
    rows = np.arange(0, len(judged_mD), max(1, -(-len(judged_mD) // _ROWS_TO_JUDGE)))
    best = -np.inf
    chosen = 2
    for k in range(2, min(largest, len(z_nD)) + 1):
        clusters = _fit_k_means(z_nD, k, seed=0).predict(judged_mD[rows])
        silhouette = float(np.mean(silhouette_rows(space_mF[rows], clusters)))
        if silhouette > best:
            best = silhouette
            chosen = k
    return chosen


def _fit_k_means(z_nD: np.ndarray, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(n_clusters=k, n_init=4, random_state=seed).fit(z_nD)
