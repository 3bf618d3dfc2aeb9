"""The input matrix: all modalities of a sample side by side, standardised, and a flag for each that
is missing.

Shapes: N samples of the cohort, B rows, F inputs, F_m inputs of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from m3h_core.data.cohort import Cohort

# Standardised inputs beyond this many standard deviations are cut: one typing error must not steer
# a layer.
CLIP = 8.0


def cohort_tensors(cohort: Cohort, rows: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Embeddings {modality: [B, F_m]} and presence {modality: [B]} of some rows of a cohort."""
    embeddings = {
        name: torch.from_numpy(np.asarray(values[rows]))
        for name, values in cohort.embeddings.items()
    }
    return embeddings, {
        name: torch.from_numpy(np.asarray(mask[rows])) for name, mask in cohort.present.items()
    }


def standardize(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    modalities: Mapping[str, int],
    mean: Tensor,
    inverse_scale: Tensor,
) -> Tensor:
    """The input matrix [B, F]: embeddings standardised, 0 where missing, then a flag for each
    missing modality.

    ``modalities`` holds the widths that are expected. Raises ValueError for a modality that is not
    among them, or of another width.
    """
    unknown = sorted(set(embeddings) - set(modalities))
    if unknown:
        raise ValueError(f"unknown modalities {unknown}; the model has {sorted(modalities)}")
    if not embeddings:
        raise ValueError("give at least one modality; mark its rows as missing with present")
    batch = len(next(iter(embeddings.values())))
    x_BF = mean.new_zeros(batch, len(mean) + len(modalities))
    start = 0
    for i, (name, width) in enumerate(modalities.items(), start=len(mean)):
        part = slice(start, start + width)
        start += width
        if name not in embeddings:
            x_BF[:, i] = 1
            continue
        values = embeddings[name].to(x_BF)
        is_present = present[name].to(mean.device)
        if values.shape != (batch, width):
            raise ValueError(
                f"embeddings[{name!r}] must be [{batch}, {width}], not {list(values.shape)}"
            )
        z = ((values - mean[part]) * inverse_scale[part]).clamp(-CLIP, CLIP)
        x_BF[:, part] = torch.where(is_present.unsqueeze(1), z, 0)
        x_BF[:, i] = (~is_present).to(x_BF)
    return x_BF
