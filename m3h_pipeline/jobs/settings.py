"""What jobs read of m3h.toml's sections ``[training]`` and ``[model]``, and of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3h_core import FitConfig

_MOST_WORKERS = 8


def fit_config(config: dict[str, Any]) -> FitConfig:
    """The configuration of every network of a run, from a job's ``training`` and ``model``."""
    from m3h_core import FitConfig

    training = config["training"]
    return FitConfig(seed=training["seed"], epochs=training["epochs"], **config["model"])


def count_workers(config: dict[str, Any]) -> int:
    """How many chunks of models to train at once: ``workers``, or the cores, as far as memory is
    likely to reach.
    """
    from joblib import cpu_count

    return config.get("workers") or min(cpu_count(), _MOST_WORKERS)
