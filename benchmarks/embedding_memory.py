"""The largest resident size of a whole embedding job, on few and on many items."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from embedding_clock import against
from embedding_items import image_files, notes

from m3h_core.data.cohort import TRAIN
from m3h_core.embedders import LanguageEmbedder


def measure_memory(scratch: Path) -> None:
    """Print the job's largest resident size, MiB, on 1,000 and 20,000 items."""
    print("\nmemory          MiB at 1,000 and 20,000 items; the second over the first")
    checkpoint = _small_checkpoint(scratch / "checkpoint")
    options = {
        "language": {"checkpoint": str(checkpoint)},
        "vision": {"image_size": 64},
        "timeseries": {"learned": False},
    }
    for modality in ("language", "vision", "timeseries"):
        sizes = [_job_memory(modality, n, options[modality], scratch) for n in (1_000, 20_000)]
        print(
            f"{modality:<14}{sizes[0]:>7.0f}{sizes[1]:>7.0f}   "
            f"{against(sizes[1] / sizes[0], 1.2, at_most=True)}",
            flush=True,
        )


def _small_checkpoint(folder: Path) -> Path:
    """A random transformer of one layer with MiniLM's vocabulary and width."""
    tokenizer, _ = LanguageEmbedder().encoder.load()
    from transformers import BertConfig, BertModel  # isort: skip  (after the guard of torchvision)

    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=6,
        intermediate_size=384,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _job_memory(modality: str, n: int, options: dict[str, Any], scratch: Path) -> float:
    folder = scratch / f"{modality}-{n}"
    apart(_write_inputs, modality, n, folder)
    job = {
        "modality": modality,
        "inputs": str(folder),
        "options": options,
        "cache": str(folder / "cache"),
        "cache_bytes": 10**10,
        "to": str(folder),
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-m",
        "m3h_pipeline.jobs.embed",
        "--config",
        str(folder / "job.json"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the {modality} job failed")
    return usage.ru_maxrss / 1024


def apart(work: Callable[..., Any], *values: Any) -> None:
    """Do it in a process of its own: the system takes the memory of whoever starts a process for
    its child's.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(work, *values).result()


def _write_inputs(modality: str, n: int, folder: Path) -> None:
    folder.mkdir()
    ids = [f"{i:06d}" for i in range(n)]
    pl.DataFrame(
        {"sample_id": ids, "subject_id": ids, "split": [TRAIN if i % 2 else 3 for i in range(n)]}
    ).write_parquet(folder / "samples.parquet")
    rng = np.random.default_rng(0)
    if modality == "timeseries":
        table = {
            "sample_id": np.repeat(ids, 100),
            "code": np.tile([f"signal_{i % 40:02d}" for i in range(100)], n),
            "hours": -rng.random(100 * n) * 24,
            "value": rng.normal(size=100 * n),
        }
    elif modality == "language":
        texts = [row[0][1] for row in notes(n, np.full(n, 60))]
        table = {"sample_id": ids, "hours": np.full(n, -1.0), "note_id": ids, "text": texts}
    else:
        files = [row[0] for row in image_files(n, folder / "images", size=96)]
        table = {
            "sample_id": ids,
            "hours": np.full(n, -1.0),
            "image_id": ids,
            "view": ["PA"] * n,
            "path": [file for _, _, file in files],
        }
    pl.DataFrame(table).write_parquet(folder / f"{modality}.parquet", row_group_size=4096)
