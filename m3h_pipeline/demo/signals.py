"""How the values of a signal come about.

A signal is its usual value plus what the stay's drivers add, plus a difference that stays with the
stay, plus noise of each measurement. Signals overlap: each is moved by several drivers, and each
driver moves several signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3h_pipeline.demo.stays import Array, Stays


@dataclass(frozen=True)
class Signal:
    """``usual`` value, spread from stay to stay and from measurement to measurement, what each
    driver adds.

    Where ``is_ratio``, spreads and effects are of the logarithm.
    """

    usual: float
    between: float
    within: float
    effects: dict[str, float]
    is_ratio: bool = False


def draw_course(
    rng: np.random.Generator, signal: Signal, stays: Stays, stay: Array, hour: Array
) -> Array:
    """Values of one signal, one for each measurement; ``stay`` says whose, ``hour`` when since its
    start.
    """
    n = len(stays)
    level = stays.score(signal.effects) + signal.between * rng.standard_normal(n)
    # The dying move the way illness moves the signal, the others a little back.
    toward = np.sign(sum(signal.effects.values())) * np.where(stays.died, 0.3, -0.1)
    slope = signal.between * (0.35 * rng.standard_normal(n) + toward)
    days = np.clip(hour / 24, -0.5, 4)
    value = (
        level[stay] + slope[stay] * (days - 0.5) + signal.within * rng.standard_normal(len(stay))
    )
    return signal.usual * np.exp(value) if signal.is_ratio else signal.usual + value


def to_minutes(count: Array) -> Array:
    return np.asarray(count).astype(int).astype("timedelta64[m]")
