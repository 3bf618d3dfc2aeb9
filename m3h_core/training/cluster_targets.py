"""Deep embedded clustering: where the centres start, and the targets that pull the rows to them.

Shapes: G models in parallel, M members of a model, B rows of a batch, n training rows, D width of a
task's embedding, c clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3h_core.data.k_means import k_means_centres
from m3h_core.losses import clustering_loss, sharpen
from m3h_core.model.network import Activations, Network
from m3h_core.training.wide import WideModel


class ClusterTargets:
    """The targets p [G, n, c] of each clustering task, by its place; none before the clusters
    start.
    """

    def __init__(self, wide: WideModel) -> None:
        self.wide = wide
        self.config = wide.config
        self.tasks = wide.network.layout.clustering
        self.targets: dict[int, Tensor] = {}

    @torch.no_grad()
    def refresh(self, epoch: int) -> bool:
        """Start the clusters by k-means once the embedding has some shape; sharpen their targets
        every few epochs.

        Returns whether they have been started.
        """
        since = epoch - self.config.cluster_start
        if not self.tasks or since < 0 or since % self.config.cluster_refresh:
            return False
        network = self.wide.network
        if not since:
            self.start(network)
        for task in self.tasks:
            parts = self.wide.embedded(network, task)
            q_Gnc = torch.cat([network.heads.assign(z_GBD, task) for z_GBD in parts], dim=1)
            self.targets[task] = sharpen(q_Gnc)
        return not since

    @torch.no_grad()
    def start(self, network: Network) -> None:
        """Put the centres of a network where k-means finds them in its embedding of the training
        rows.
        """
        for task in self.tasks:
            centres = network.heads.centres[str(task)]
            z_GnD = torch.cat(list(self.wide.embedded(network, task)), dim=1)
            starts = [
                k_means_centres(z_nD, centres.shape[1], self.config.seed)
                for z_nD in z_GnD.double().cpu().numpy()
            ]
            centres.copy_(torch.tensor(np.stack(starts)))

    def loss(self, state: Activations, rows: Tensor) -> Tensor | None:
        """How far the rows of a batch are from their targets, summed over models and tasks; None
        before the clusters start.
        """
        if not self.targets:
            return None
        loss = state.outputs.new_zeros(())
        network = self.wide.network
        for task, p_Gnc in self.targets.items():
            q_GBc = network.heads.assign(network.read(state, task), task)
            per_model = clustering_loss(q_GBc, p_Gnc[:, rows]).mean(1)
            loss = loss + self.config.cluster_weight * per_model.sum()
        return loss

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the models only."""
        self.targets = {task: p_Gnc[list(places)] for task, p_Gnc in self.targets.items()}
