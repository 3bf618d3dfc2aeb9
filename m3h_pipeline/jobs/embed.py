"""Fit one modality's embedder on the training split and embed every sample; vectors that are given
are only scaled.

Configuration: ``modality``, ``inputs`` (folder of the as-of inputs), ``options`` (of the embedder;
for time series also ``learned``: the learned encoder instead of statistics; or only ``encoder``:
the name of another class), ``series_steps`` (of raw time series; 0: they are not needed step by
step), ``cache`` (folder), ``cache_bytes`` (its limit), ``to``. Writes ``embedding.safetensors``
(vectors float32 [N, F], present bool [N], in the order of ``samples.parquet``; with steps also
series float32 [N, W]), ``embedder/`` and, with steps, ``series_embedder/``, which travel inside the
registered model, and ``quarantine.parquet``: the notes and images that could not be embedded, and
why.

The vectors of notes and images go into the cache as they are computed, a shard at a time. A job
that was stopped, in whatever way, goes on after its last shard; another night embeds what is new.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.cohort import SERIES, TIMESERIES, TRAIN
from m3h_core.embedders import (
    AbsentEmbedder,
    Embedder,
    GivenEmbedder,
    LanguageEmbedder,
    SeriesEmbedder,
    VisionEmbedder,
    prune,
)
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.items import ITEM_IDS, is_given, item_ids, modality_items, take
from m3h_pipeline.jobs.encoders import new_embedder
from m3h_pipeline.jobs.job import FACTS, Log, run_job
from m3h_pipeline.jobs.on_ray import fill_cache
from m3h_pipeline.jobs.progress import Progress
from m3h_pipeline.state.data_files import write_arrays, write_json
from m3h_pipeline.state.layout import EMBEDDER, SERIES_EMBEDDER
from m3h_pipeline.wording import MIN_GROUP_SIZE

_QUARANTINE = {
    "row": pl.String,
    "rule": pl.String,
    "reason": pl.String,
    "source_file": pl.String,
    "source_row": pl.Int64,
}


def embed(config: dict[str, Any], log: Log) -> dict[str, Any]:
    """Fit, embed, write; returns facts worth showing."""
    modality = config["modality"]
    inputs = Path(config["inputs"])
    to = Path(config["to"])
    cache = Path(config["cache"])
    samples = pl.read_parquet(inputs / "samples.parquet", columns=["split"])
    items = modality_items(modality, inputs)
    started = time.monotonic()
    try:
        given = is_given(modality, inputs)
        embedder = (
            GivenEmbedder(modality, MIN_GROUP_SIZE)
            if given
            else new_embedder(modality, config["options"])
        )
        embedder.cache = cache if config["cache_bytes"] else None
        spread = 0
        if config.get("engine") == "ray" and embedder.cache and not given and modality in ITEM_IDS:
            spread = fill_cache(config, len(samples), Progress(f"{modality}: samples on Ray,", log))
        train = take(items, (samples["split"] == TRAIN).to_numpy().nonzero()[0])
        embedder.fit(train, on_progress=Progress(f"{modality}: fitting on train,", log))
        computed = embedder.computed
        vectors, present = embedder.transform(
            items, on_progress=Progress(f"{modality}: samples,", log)
        )
    except ValueError as error:
        # A checkpoint or weights that can't be had, a package that is missing.
        raise InputError(f"{modality}: {error}") from error
    embedder.save(to / EMBEDDER)
    arrays = {"vectors": vectors, "present": present}
    if config.get("series_steps") and modality == TIMESERIES and not given and present.any():
        in_steps = SeriesEmbedder(config["series_steps"], min_rows=MIN_GROUP_SIZE).fit(train)
        in_steps.save(to / SERIES_EMBEDDER)
        arrays[SERIES], _ = in_steps.transform(items)
    write_arrays(to / "embedding.safetensors", arrays)
    _write_quarantine(embedder, inputs, to / "quarantine.parquet")
    facts = {
        "samples": len(samples),
        "present": int(present.sum()),
        "width": int(vectors.shape[1]),
        "seconds": round(time.monotonic() - started, 1),
        "encoder": dict(embedder.report),
        "items computed": spread + computed + embedder.computed,
        "unreadable": dict(Counter(item.reason for item in embedder.unreadable)),
        "shards pruned": prune(cache, config["cache_bytes"]),
    }
    write_json(to / FACTS, facts)
    return facts


def absent_embedder(modality: str, inputs: Path, options: dict[str, Any]) -> AbsentEmbedder | None:
    """What stands for the encoder of notes or images where nobody has any; None where its job is
    needed.

    Loads no encoder, and neither torch nor transformers nor timm.
    """
    if modality not in ITEM_IDS or "encoder" in options or is_given(modality, inputs):
        return None
    if pl.scan_parquet(inputs / f"{modality}.parquet").select(pl.len()).collect().item():
        return None
    try:
        width = _declared_width(modality, options)
    except ValueError as error:  # a checkpoint that can't be had
        raise InputError(f"{modality}: {error}") from error
    return AbsentEmbedder(modality, width) if width else None


def _declared_width(modality: str, options: dict[str, Any]) -> int | None:
    if modality == VisionEmbedder.modality:
        return VisionEmbedder.declared_width()
    return LanguageEmbedder(**options).declared_width()


def embed_nothing(embedder: AbsentEmbedder, inputs: Path, to: Path) -> dict[str, Any]:
    """Write what the job would write where no sample has the modality; returns the same facts."""
    started = time.monotonic()
    samples = pl.read_parquet(inputs / "samples.parquet", columns=["split"])
    vectors, present = embedder.transform(samples)
    embedder.save(to / EMBEDDER)
    write_arrays(to / "embedding.safetensors", {"vectors": vectors, "present": present})
    _write_quarantine(embedder, inputs, to / "quarantine.parquet")
    facts = {
        "samples": len(samples),
        "present": 0,
        "width": embedder.width,
        "seconds": round(time.monotonic() - started, 1),
        "encoder": dict(embedder.report),
        "items computed": 0,
        "unreadable": {},
        "shards pruned": 0,
    }
    write_json(to / FACTS, facts)
    return facts


def _write_quarantine(embedder: Embedder, inputs: Path, file: Path) -> None:
    """In the form of the quarantined rows of a table; readable by the owner alone."""
    frame = pl.DataFrame(schema=_QUARANTINE)
    if embedder.unreadable:
        named = item_ids(
            embedder.modality, inputs, [(item.sample, item.item) for item in embedder.unreadable]
        )
        name = ITEM_IDS[embedder.modality]
        rows = [json.dumps({"sample_id": sample, name: item}) for sample, item in named.rows()]
        reasons = [item.reason for item in embedder.unreadable]
        frame = pl.DataFrame({"row": rows, "reason": reasons}).with_columns(
            pl.lit("can_be_embedded").alias("rule")
        )
        frame = frame.with_columns(
            pl.lit(None).alias(name) for name in ("source_file", "source_row")
        )
    os.close(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    frame.select(pl.col(name).cast(kind) for name, kind in _QUARANTINE.items()).write_parquet(file)


def main() -> None:
    """Entry point."""
    with run_job() as (config, log):
        facts = embed(config, log)
        line = (
            f"{config['modality']}: {facts['present']} of {facts['samples']} samples, "
            f"{facts['width']} wide"
        )
        if config["modality"] in ITEM_IDS:
            line += f"; {facts['items computed']} items run through the encoder"
        log(line)


if __name__ == "__main__":
    main()
