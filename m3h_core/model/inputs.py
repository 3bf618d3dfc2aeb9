"""What a network reads: the modalities of a patient as one matrix.

Shapes: B batch, F inputs (all modalities side by side, then a flag for each missing one), F_m
inputs of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from m3h_core.data.inputs import standardize


class ModalityInputs(nn.Module):
    """Standardised embeddings, 0 where a modality is missing, and a flag for each that is.

    The flag's weights in the first layer are what a network learns to put in the place of a missing
    modality. ``mean`` and ``inverse_scale`` are buffers, fitted on the training split.

    >>> inputs = ModalityInputs({"tabular": 2, "vision": 1})
    >>> embeddings = {"tabular": torch.ones(1, 2)}
    >>> inputs(embeddings, {"tabular": torch.ones(1, dtype=torch.bool)})
    tensor([[1., 1., 0., 0., 1.]])
    """

    mean: Tensor
    inverse_scale: Tensor

    def __init__(self, modalities: Mapping[str, int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if not modalities or min(modalities.values()) < 1:
            raise ValueError(
                f"modalities must be at least one, each at least 1 wide, got {dict(modalities)}"
            )
        self.modalities = dict(modalities)
        features = sum(modalities.values())
        self.register_buffer("mean", torch.zeros(features, dtype=dtype))
        self.register_buffer("inverse_scale", torch.ones(features, dtype=dtype))

    @property
    def width(self) -> int:
        """Columns F of the matrix."""
        return len(self.mean) + len(self.modalities)

    def forward(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The matrix [B, F], from embeddings {modality: [B, F_m]} and present {modality: bool
        [B]}.
        """
        return standardize(embeddings, present, self.modalities, self.mean, self.inverse_scale)
