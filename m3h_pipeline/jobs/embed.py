"""Fit one modality's embedder on the training split and embed every sample; vectors that are given are only scaled.

Configuration: ``modality``, ``inputs`` (folder of the as-of inputs), ``options`` (of the embedder), ``to``.
Writes ``embedding.safetensors`` (vectors float32 [N, F], present bool [N], in the order of ``samples.parquet``) and
``embedder/``, which travels inside the registered model.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.cohort import TRAIN
from m3h_core.embedders import EMBEDDERS, GivenEmbedder
from m3h_pipeline.features.items import is_given, modality_items, take
from m3h_pipeline.jobs import FACTS, every, job
from m3h_pipeline.storage import write_arrays, write_json


def embed(modality: str, inputs: Path, options: dict[str, Any], to: Path, log: Any) -> dict[str, Any]:
    """Fit, embed, write; returns facts worth showing."""
    samples = pl.read_parquet(inputs / "samples.parquet")
    items = modality_items(modality, inputs)
    train = (samples["split"] == TRAIN).to_numpy().nonzero()[0]
    started = time.monotonic()
    embedder = GivenEmbedder(modality) if is_given(modality, inputs) else EMBEDDERS[modality](**options)
    embedder.fit(take(items, train))
    progress = every(5, log)
    vectors, present = embedder.transform(
        items, on_progress=lambda done, total: progress(f"{modality}: {done} of {total} embedded")
    )
    embedder.save(to / "embedder")
    write_arrays(to / "embedding.safetensors", {"vectors": vectors, "present": present})
    facts = {
        "samples": len(samples),
        "present": int(present.sum()),
        "width": int(vectors.shape[1]),
        "seconds": round(time.monotonic() - started, 1),
        "encoder": dict(embedder.report),
        "unreadable": dict(Counter(reason for _, reason in getattr(embedder, "unreadable", []))),
    }
    write_json(to / FACTS, facts)
    return facts


def main() -> None:
    """Entry point."""
    with job() as (config, log):
        facts = embed(config["modality"], Path(config["inputs"]), config["options"], Path(config["to"]), log)
        log(f"{config['modality']}: {facts['present']} of {facts['samples']} samples, {facts['width']} wide")


if __name__ == "__main__":
    main()
