"""M3H: modality embeddings of a patient in, an output for each task out.

Shapes: B batch, F inputs (all modalities side by side, then a flag for each missing one), F_m
inputs of a modality, T tasks, O outputs of all tasks side by side, c clusters, H units, D width of
a task's embedding. See network.py for the network itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from m3h_core.config import FitConfig
from m3h_core.data.tasks import TaskSpec
from m3h_core.model.closed_form import LinearPath, Loans
from m3h_core.model.inputs import ModalityInputs
from m3h_core.model.layout import Layout
from m3h_core.model.network import Activations, Network


class M3H(nn.Module):
    """The model: any subset of the modalities of a patient in, an output for each task out.

    A modality that is missing is not passed off as zeros: its share of the first layer is replaced
    by a learned token. ``inputs`` standardises, as fitted on the training split; ``network`` holds
    what is trained, a few members whose outputs are averaged; ``linear`` and ``loans`` are fitted
    in closed form, where the configuration asks for them. :func:`m3h_core.fit` fills all four.

    >>> import torch
    >>> tasks = [TaskSpec("death", "binary"), TaskSpec("destination", "multiclass", classes=3)]
    >>> model = M3H({"tabular": 4, "vision": 8}, tasks, FitConfig(hidden=(16,), width=4))
    >>> embeddings = {"tabular": torch.randn(5, 4), "vision": torch.randn(5, 8)}
    >>> nobody = torch.zeros(5, dtype=torch.bool)
    >>> present = {"tabular": ~nobody, "vision": nobody}
    >>> {name: tuple(y.shape) for name, y in model(embeddings, present).items()}
    {'death': (5,), 'destination': (5, 3)}
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        config: FitConfig | None = None,
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) < len(names):
            raise ValueError(f"tasks must be at least one and have different names, got {names}")
        self.modalities = dict(modalities)
        self.tasks = tuple(tasks)
        self.config = config or FitConfig()
        self.inputs = ModalityInputs(modalities, self.config.dtype)
        self.layout = Layout.of(self.inputs.width, tasks, self.config, self.modalities)
        clusters = {i: tasks[i].n_classes or 2 for i in self.layout.clustering}
        self.network = Network(self.layout, self.config, clusters)
        self.network.draw_()
        sizes = (self.layout.n_outputs, self.layout.n_inputs, self.config.dtype)
        self.linear = LinearPath(*sizes) if self.config.linear_path else None
        self.loans = Loans(*sizes) if self.config.borrowing else None

    def forward(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Outputs by task, from embeddings {modality: [B, F_m]} and present {modality: bool [B]}.

        Binary: logit [B]; multiclass: logits [B, classes]; regression: standardised value [B];
        clustering: soft assignment [B, clusters]. A modality that is left out counts as missing for
        every row.
        """
        x_BF = self.inputs(embeddings, present)
        state = self.network(x_BF)
        y_OB = self._own(state, x_BF)
        if self.loans is not None:
            y_OB = self.loans(y_OB, x_BF)
        return self._by_task(state, y_OB)

    def distances(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Distances [B, clusters] from the centres of each clustering task, in its embedding; none
        for other tasks.
        """
        state = self.network(self.inputs(embeddings, present))
        return {
            self.tasks[i].name: torch.cdist(
                self.network.read(state, i)[0], self.network.heads.centres[str(i)][0]
            )
            for i in self.layout.clustering
        }

    def own_outputs(self, x_BF: Tensor) -> Tensor:
        """Outputs [O, B] of the members' mean and the linear path, before tasks borrow, from
        ``inputs``.
        """
        return self._own(self.network(x_BF), x_BF)

    def attention(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Attention weights [B, T, T], averaged over the members; row t holds what task t takes
        from each task.
        """
        x_BF = self.inputs(embeddings, present)
        weights = self.network(x_BF).weights
        if weights is None:
            return torch.eye(len(self.tasks), dtype=x_BF.dtype).expand(x_BF.shape[0], -1, -1)
        return weights.mean(0).permute(2, 1, 0)

    def _own(self, state: Activations, x_BF: Tensor) -> Tensor:
        mean_OB = state.outputs.mean(0)
        return mean_OB if self.linear is None else mean_OB + self.linear(x_BF)

    def _by_task(self, state: Activations, y_OB: Tensor) -> dict[str, Tensor]:
        result = {}
        for i, (task, part) in enumerate(zip(self.tasks, self.layout.slices, strict=True)):
            if task.problem == "clustering":
                z_BD = self.network.read(state, i)[0]
                result[task.name] = self.network.heads.assign(z_BD[None], i)[0]
            else:
                result[task.name] = (
                    y_OB[part].T if task.problem == "multiclass" else y_OB[part.start]
                )
        return result
