"""Early stopping of models that are trained side by side, each by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """Of the running models, by place: which have improved, and which go on."""

    improved: list[int]
    going: list[int]


class EarlyStopping:
    """Remembers the best loss of each model; one that was not bettered for ``patience`` epochs lets
    its model go.

    >>> stopping = EarlyStopping(models=2, patience=1)
    >>> stopping.judge(0, [0, 1], [3.0, 2.0])
    Verdict(improved=[0, 1], going=[0, 1])
    >>> stopping.judge(1, [0, 1], [1.0, 2.0])
    Verdict(improved=[0], going=[0])
    """

    def __init__(self, models: int, patience: int) -> None:
        self.patience = patience
        self.best_loss = [math.inf] * models
        self.best_epoch = [-1] * models

    def judge(self, epoch: int, active: Sequence[int], losses: Sequence[float | None]) -> Verdict:
        """Judge the models ``active`` by their validation losses.

        None is the loss of a model without a validation label: there is nothing to choose by, and
        its last epoch stands. NaN, of one that has diverged, is no improvement.
        """
        verdict = Verdict([], [])
        for at, (model, loss) in enumerate(zip(active, losses, strict=True)):
            if loss is None or loss < self.best_loss[model]:
                self.best_loss[model] = math.inf if loss is None else loss
                self.best_epoch[model] = epoch
                verdict.improved.append(at)
            if epoch - self.best_epoch[model] < self.patience:
                verdict.going.append(at)
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """The state in JSON's terms, read back by :meth:`load_state_dict`."""
        losses = [None if math.isinf(loss) else loss for loss in self.best_loss]
        return {"best_loss": losses, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.best_loss = [math.inf if loss is None else loss for loss in state["best_loss"]]
        self.best_epoch = list(state["best_epoch"])
