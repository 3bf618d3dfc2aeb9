"""Fewer inputs for small networks: the leading principal components of all modalities.

Shapes: N samples, F inputs, C components.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m3h_core.data.cohort import TRAIN, Cohort
from m3h_core.data.silhouette import standardize_modalities


def project_inputs(cohort: Cohort, n_components: int, seed: int = 0) -> Cohort:
    """The cohort with one modality, "components" [N, C], in place of its own; unchanged where it
    has no more inputs than that.

    Fitted on the training split. The components are turned by a random rotation: whatever
    standardises its inputs would otherwise blow the last components, which are noise, up to the
    size of the first.
    """
    from sklearn.decomposition import PCA

    parts = list(standardize_modalities(cohort).values())
    for present in cohort.present.values():
        is_missing = ~np.asarray(present)
        if is_missing.any() and not is_missing.all():
            parts.append(is_missing[:, None].astype(np.float64))
    inputs_NF = np.hstack(parts) if parts else np.zeros((len(cohort), 0))
    is_train = cohort.split == TRAIN
    n_components = min(n_components, int(is_train.sum()) - 1)
    if n_components < 1 or inputs_NF.shape[1] <= n_components:
        return cohort
    pca = PCA(n_components, random_state=seed).fit(inputs_NF[is_train])
    rng = np.random.default_rng(seed)
    rotation_CC = np.linalg.qr(rng.normal(size=(n_components, n_components)))[0]
    components_NC = (pca.transform(inputs_NF) @ rotation_CC).astype(np.float32)
    return replace(
        cohort,
        embeddings={"components": components_NC},
        present={"components": np.ones(len(cohort), dtype=bool)},
    )
