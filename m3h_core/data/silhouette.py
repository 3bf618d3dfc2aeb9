"""How clusters are judged: by the silhouette of the hard clusters, in one space of the inputs.

Shapes: N samples of the cohort, n rows that are judged, C clusters, F inputs,
F_m inputs of a modality.
"""

from __future__ import annotations

import numpy as np

from m3h_core.data.cohort import TRAIN, Cohort


def standardize_modalities(cohort: Cohort) -> dict[str, np.ndarray]:
    """The inputs [N, F_m] of each modality that the training split has: standardised on its rows,
    without the columns that are constant there, and 0 where missing.
    """
    parts = {}
    for name, values in cohort.embeddings.items():
        is_present = np.asarray(cohort.present[name])
        train_rows = np.asarray(values, dtype=np.float64)[is_present & (cohort.split == TRAIN)]
        if not len(train_rows):
            continue
        mean = train_rows.mean(0)
        deviation = train_rows.std(0)
        varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
        z = np.zeros((len(cohort), int(varies.sum())))
        z[is_present] = (np.asarray(values)[is_present][:, varies] - mean[varies]) / deviation[
            varies
        ]
        parts[name] = z
    return parts


def input_space(cohort: Cohort) -> np.ndarray:
    """The fixed space [N, F] in which clusters are judged: all modalities, standardised on the
    training split.

    Each modality counts alike however wide it is; a missing one lies at its mean.
    """
    parts = [z / np.sqrt(max(1, z.shape[1])) for z in standardize_modalities(cohort).values()]
    return np.hstack(parts) if parts else np.zeros((len(cohort), 1))


def hard_clusters(assignment: np.ndarray) -> np.ndarray:
    """The cluster [N] of each row, from soft or one-hot assignments [N, C] or from clusters [N]."""
    assignment = np.asarray(assignment)
    return assignment.argmax(1) if assignment.ndim == 2 else assignment.astype(int)


def silhouette_rows(space: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The silhouette [n] of each row; all NaN where there are fewer than two clusters or only
    single rows.
    """
    from sklearn.metrics import silhouette_samples

    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return np.full(len(clusters), np.nan)
    return np.asarray(silhouette_samples(space, clusters))
