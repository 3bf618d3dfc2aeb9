"""Chance, a number at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class RandomNumbers:
    """Uniform numbers from one generator, drawn in blocks, since one by one is slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers: list[float] = []

    def uniform(self) -> float:
        if not self._numbers:
            self._numbers = self._rng.random(4096).tolist()
        return self._numbers.pop()

    def happens(self, chance: float) -> bool:
        return self.uniform() < chance

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.uniform() * len(choices))]
