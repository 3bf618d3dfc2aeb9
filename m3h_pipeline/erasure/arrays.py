"""Rows of forgotten patients in the arrays of a step: embeddings, predictions, the cohort."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl

from m3h_core import Cohort
from m3h_pipeline.erasure.subject_keys import SubjectKeys
from m3h_pipeline.state.data_files import read_json, write_arrays
from m3h_pipeline.state.layout import COHORT, INPUTS, PREDICTIONS, SINGLE_TASK
from m3h_pipeline.state.steps import discard_step, read_step, revise

# Arrays with a row a sample, in the order of another step's samples.
_ALIGNED = {
    "embedding.safetensors": INPUTS,
    PREDICTIONS: COHORT,
    SINGLE_TASK: COHORT,
}


def erase_arrays(snapshot: Path, keys: SubjectKeys) -> None:
    """Erase from all arrays of a snapshot that follow the samples of another step."""
    if not keys.samples:
        return
    for name, reference in _ALIGNED.items():
        for file in sorted(snapshot.rglob(name)):
            _erase_aligned(file, snapshot / reference, keys)


def _erase_aligned(file: Path, reference: Path, keys: SubjectKeys) -> None:
    """Erase rows from arrays that follow the samples of another step; a step that does not follow
    it is removed.

    Such a step was made from an earlier state of the other: the next run makes it anew in any case.
    """
    from safetensors.numpy import load_file

    step = read_step(file.parent)
    followed = read_step(reference)
    if step is None or followed is None or followed.version not in step.made_from:
        discard_step(file.parent)
        return
    kept = ~_read_sample_ids(reference).is_in(list(keys.samples)).to_numpy()
    arrays = load_file(file)
    if {len(values) for values in arrays.values()} == {int(kept.sum())}:
        return

    def change(copy: Path) -> None:
        partial = copy / f".{file.name}.partial"
        write_arrays(partial, {name: values[kept] for name, values in arrays.items()})
        os.replace(partial, copy / file.name)

    revise(file.parent, change)


def _read_sample_ids(step: Path) -> pl.Series:
    """Sample ids of a step's rows, in their order."""
    if (step / "cohort.json").exists():
        sample_ids = read_json(step / "cohort.json")["sample_ids"]
        return pl.Series("sample_id", sample_ids, dtype=pl.String)
    if (step / "samples.parquet").exists():
        return pl.read_parquet(step / "samples.parquet", columns=["sample_id"]).to_series()
    return pl.Series("sample_id", [], dtype=pl.String)


def erase_cohort(folder: Path, keys: SubjectKeys) -> None:
    """Erase from the step that holds the cohort."""
    cohort = Cohort.load(folder)
    kept = np.array([str(sample) not in keys.samples for sample in cohort.sample_ids])
    if kept.all():
        return
    smaller = cohort.take(np.flatnonzero(kept))

    def change(copy: Path) -> None:
        # Not into the files that are there: those are the finished step's own.
        for file in ("cohort.json", "cohort.safetensors"):
            (copy / file).unlink()
        smaller.save(copy)

    revise(folder, change)
