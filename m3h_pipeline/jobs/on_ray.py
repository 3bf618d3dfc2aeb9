"""The dear part of an embedding job over the machines of the Ray cluster that it runs in: its cache
is filled by all.

What they write is the cache alone, by content, so the job that reads it then makes the vectors that
it would have made by itself. A machine that is lost loses what it had not written yet, and another
does its part again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from m3h_core.embedders import Embedder
from m3h_pipeline.features.items import modality_items, take
from m3h_pipeline.jobs.encoders import new_embedder

# Samples of a task: what is done again after a loss, at most.
_PART = 100


def fill_cache(config: dict[str, Any], n: int, on_progress: Callable[[int, int], None]) -> int:
    """Run the encoder on the items of all ``n`` samples; returns how many items it was run on.

    Raises ValueError as the encoder does, wherever it ran.
    """
    import ray  # an extra: the tests read this file without it
    import ray.data

    ray.init(address="auto", log_to_driver=False, ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    have = ray.cluster_resources()
    parts = [{"first": at, "last": min(at + _PART, n)} for at in range(0, n, _PART)]
    # A block a part, from the start: to repartition them would take a core that a small cluster
    # does not have.
    filled = ray.data.from_items(parts, override_num_blocks=max(1, len(parts))).map_batches(
        _Filler,
        fn_constructor_args=(config,),
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if have.get("GPU") else 0,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=int(have.get("GPU") or have["CPU"])
        ),
    )
    done = 0
    computed = 0
    for part in filled.iter_rows():
        if part["error"]:
            raise ValueError(part["error"])
        done = done + int(part["samples"])
        computed = computed + int(part["computed"])
        on_progress(done, n)
    return computed


class _Filler:
    """One process of one machine: the same encoder, the same inputs, the same cache."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.embedder: Embedder | None = None

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        rows = np.arange(part["first"][0], part["last"][0])
        computed = 0
        error = ""
        try:
            embedder = self._ready()
            embedder.computed = 0
            embedder.fill_cache(take(self.items, rows))
            computed = embedder.computed
        except ValueError as failure:
            # What is said of it arrives as a value: Ray would wrap it into its own traceback.
            error = str(failure)
        return {
            "samples": np.array([len(rows)]),
            "computed": np.array([computed]),
            "error": np.array([error]),
        }

    def _ready(self) -> Embedder:
        """The encoder, which reads its weights once a process."""
        if self.embedder is None:
            self.items = modality_items(self.config["modality"], Path(self.config["inputs"]))
            self.embedder = new_embedder(self.config["modality"], self.config["options"])
            self.embedder.cache = Path(self.config["cache"])
        return self.embedder
