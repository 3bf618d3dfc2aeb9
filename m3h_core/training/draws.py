"""What training draws: the order of the rows, and what is dropped.

Every draw comes from the configuration's seed alone, never from a model's tasks: so a model sees
the same draws whether it is trained alone or beside others, and models of one seed are compared on
equal terms. Shapes: n training rows, B batch, F inputs, M modalities, members of a model, H units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m3h_core.config import FitConfig


class Draws:
    """A generator, and all that is drawn from it, in the order in which it is asked for.

    ``modalities`` holds the width of each.

    >>> draws = Draws(FitConfig(seed=1), {"tabular": 2}, torch.device("cpu"))
    >>> sorted(draws.order(3).tolist())
    [0, 1, 2]
    """

    def __init__(
        self, config: FitConfig, modalities: Mapping[str, int], device: torch.device
    ) -> None:
        self.config = config
        self.modalities = modalities
        self.generator = torch.Generator(device).manual_seed(config.seed)

    def order(self, n: int) -> Tensor:
        """An order [n] of all rows."""
        return torch.randperm(n, generator=self.generator, device=self.generator.device)

    def corrupt(self, x_BF: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch in which some modalities count as missing, never all that a row has.

        Changes ``x_BF``. Also which modalities [B, M] each row has lost; None where none can be.
        """
        count = len(self.modalities)
        lost_BM = None
        if self.config.modality_dropout and count > 1:
            present_BM = 1 - x_BF[:, -count:]
            kept_BM = present_BM * (self._mask(present_BM.shape, self.config.modality_dropout) > 0)
            kept_BM = torch.where(kept_BM.any(1, keepdim=True), kept_BM, present_BM)
            start = 0
            lost_BM = present_BM - kept_BM
            for i, width in enumerate(self.modalities.values()):
                x_BF[:, start : start + width] *= kept_BM[:, i : i + 1]
                start += width
            x_BF[:, -count:] = 1 - kept_BM
        return x_BF, lost_BM

    def dropout(self, batch: int) -> list[Tensor]:
        """Scaled dropout masks [members, H, B], one for each trunk layer; before that of a
        recurrent trunk one for what enters at each step, [1, H / 2, B].
        """
        if not self.config.dropout:
            return []
        shapes = [(self.config.members, size) for size in self.config.hidden]
        if self.config.steps:
            # What enters at each step: the same mask at all steps, for all members.
            shapes.insert(0, (1, self.config.hidden[0] // 2))
        return [self._mask((*shape, batch), self.config.dropout) for shape in shapes]

    def _mask(self, shape: Sequence[int], rate: float) -> Tensor:
        """0 with the probability ``rate``, else 1 / (1 - rate)."""
        # In half the time of bernoulli_.
        draws = torch.rand(*shape, device=self.generator.device, generator=self.generator)
        return (draws >= rate).to(self.config.dtype).div_(1 - rate)
