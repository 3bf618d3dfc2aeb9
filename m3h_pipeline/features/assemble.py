"""From embeddings, labels and splits to the tensors that m3h_core trains on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from m3h_core import Cohort, with_folds
from m3h_core.data.cohort import SERIES, TEST, TIMESERIES
from m3h_pipeline.sources.splits import split_of
from m3h_pipeline.sources.tasks_file import read_tasks


def write_cohort(
    samples: Path,
    labels: Path,
    embeddings: Mapping[str, Path],
    to: Path,
    folds: int = 0,
    most_to_cross_fit: int = 0,
) -> dict[str, Any]:
    """Write the cohort and ``tasks.json`` into ``to``; return counts.

    It is cross-fitted in ``folds`` where there are 2 or more, unless it has more samples than
    ``most_to_cross_fit``, or its split is not the one that a hash of the subject decides: one that
    the data gives, or that holds out the last months, is there to be judged by.

    ``samples`` and ``labels`` are folders of the validated tables (with ``columns.json`` and
    ``tasks.json``), ``embeddings`` the folders of the embedding jobs, whose rows lie in the order
    of sorted sample ids.
    """
    frame = pl.read_parquet(samples / "samples.parquet").sort("sample_id")
    audit = json.loads((samples / "columns.json").read_text())["audit"]
    tasks = read_tasks(labels)
    label_rows = pl.read_parquet(labels / "labels.parquet")
    arrays = {
        name: load_file(folder / "embedding.safetensors") for name, folder in embeddings.items()
    }
    by_task = {task.name: _labels(frame["sample_id"], label_rows, task.name) for task in tasks}
    series = arrays.get(TIMESERIES, {}).get(SERIES)
    cohort = Cohort(
        sample_ids=frame["sample_id"].to_list(),
        split=frame["split"].to_numpy(),
        embeddings={name: part["vectors"] for name, part in arrays.items()},
        present={name: part["present"] for name, part in arrays.items()},
        labels={name: values for name, (values, _) in by_task.items()},
        labelled={name: mask for name, (_, mask) in by_task.items()},
        subject_ids=frame["subject_id"].to_list(),
        series=series,
        groups={name: frame[name].cast(pl.String).fill_null("unknown").to_list() for name in audit},
    )
    if len(cohort) <= most_to_cross_fit and is_split_by_hash(cohort):
        cohort = with_folds(cohort, folds)
    cohort.save(to)
    shutil.copy(labels / "tasks.json", to / "tasks.json")
    counts = {
        name: int((cohort.split == split).sum())
        for split, name in enumerate(("train", "valid", "calibration", "test"))
    }
    return {
        "samples": len(cohort),
        "subjects": frame["subject_id"].n_unique(),
        **counts,
        "folds": cohort.n_folds if cohort.fold is not None else 0,
        "judged": len(cohort.rows(TEST)),
        "tasks": len(tasks),
    }


def is_split_by_hash(cohort: Cohort) -> bool:
    """Whether the hash of the subject decides the split, not the data or the last months."""
    split = cohort.split
    return all(split_of(subject) == split[row] for row, subject in enumerate(cohort.subjects))


def _labels(order: pl.Series, label_rows: pl.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    task_rows = label_rows.filter(pl.col("task") == task).select("sample_id", "value")
    values = order.to_frame().join(task_rows, on="sample_id", how="left", maintain_order="left")[
        "value"
    ]
    return values.fill_null(float("nan")).to_numpy(), values.is_not_null().to_numpy()
