"""The weights that are validated, and those that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from m3h_core.model.network import Network, keep_models


class BestWeights:
    """``average`` follows the weights of the running models and is what is validated; ``best``
    holds of each model what it was at its best epoch.
    """

    def __init__(self, network: Network, averaging: float) -> None:
        self.averaging = averaging
        self.average = deepcopy(network).requires_grad_(False)
        self.best = deepcopy(self.average)

    @torch.no_grad()
    def follow(self, network: Network, epoch: int) -> None:
        """Move the average towards the weights; in the first epochs it is their plain mean."""
        keep = min(self.averaging, epoch / (epoch + 1))
        for mean, value in zip(self.average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def take(self, models: Sequence[int], places: Sequence[int]) -> None:
        """Keep the average of some models as their best; at ``places`` they run."""
        self.best.put(models, self.average, places)

    def keep(self, places: Sequence[int], running: int) -> None:
        """Go on with some of the running models only."""
        keep_models(self.average, places, running)
