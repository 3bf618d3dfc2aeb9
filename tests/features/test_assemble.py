"""Which cohorts are cross-fitted: those that a hash divides, and that are not too large for it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from m3h_core import Cohort
from m3h_core.data.folds import assign_folds
from m3h_pipeline.features.assemble import write_cohort
from m3h_pipeline.sources.splits import split_subjects

N_PATIENTS = 120
SAMPLES_A_PATIENT = 2
N_SAMPLES = N_PATIENTS * SAMPLES_A_PATIENT
SUBJECTS = [f"p{i}" for i in range(N_PATIENTS)]


def assemble(
    folder: Path, splits: dict[str, int], folds: int = 3, most: int = N_SAMPLES
) -> tuple[Cohort, dict]:
    """The cohort of these patients, two stays each, and what the step says of it."""
    ids = [f"{subject}-{stay}" for subject in SUBJECTS for stay in range(SAMPLES_A_PATIENT)]
    samples = pl.DataFrame({"sample_id": ids, "sex": "F"}).with_columns(
        subject_id=pl.col("sample_id").str.split("-").list.first()
    )
    samples = samples.with_columns(
        split=pl.col("subject_id").replace_strict(splits, return_dtype=pl.Int8)
    )
    samples.write_parquet(folder / "samples.parquet")
    (folder / "columns.json").write_text(json.dumps({"audit": ["sex"]}))
    task = {"name": "death", "problem": "binary"}
    (folder / "tasks.json").write_text(json.dumps([task]))
    labels = {"sample_id": ids, "task": "death", "value": 0.0}
    pl.DataFrame(labels).write_parquet(folder / "labels.parquet")
    (folder / "tabular").mkdir()
    vectors = {"vectors": np.zeros((N_SAMPLES, 2), dtype=np.float32)}
    present = {"present": np.ones(N_SAMPLES, dtype=bool)}
    save_file(vectors | present, folder / "tabular" / "embedding.safetensors")
    to = folder / "cohort"
    to.mkdir()
    facts = write_cohort(folder, folder, {"tabular": folder / "tabular"}, to, folds, most)
    return Cohort.load(to), facts


def split_by_hash(holdout_months: int = 0) -> dict[str, int]:
    """Patient -> split; they came over a year."""
    start = dt.datetime(2026, 1, 1)
    days = [start + dt.timedelta(days=3 * i) for i in range(N_PATIENTS)]
    subjects = pl.DataFrame({"subject_id": SUBJECTS, "latest": days})
    return dict(split_subjects(subjects, holdout_months=holdout_months).iter_rows())


@pytest.mark.parametrize("folds", [2, 3])
def test_a_cohort_that_the_hash_divides_is_cross_fitted(tmp_path, folds):
    cohort, facts = assemble(tmp_path, split_by_hash(), folds)
    assert cohort.n_folds == facts["folds"] == folds
    assert facts["judged"] == len(cohort)
    np.testing.assert_array_equal(cohort.fold, assign_folds(cohort.subjects, folds))
    # The split stays what it was.
    assert facts["train"] == 2 * list(split_by_hash().values()).count(0)


@pytest.mark.parametrize("folds", [0, 1])
def test_below_two_folds_there_are_none(tmp_path, folds):
    cohort, facts = assemble(tmp_path, split_by_hash(), folds)
    assert cohort.fold is None
    assert facts["folds"] == 0
    assert facts["judged"] == facts["test"]


def test_one_sample_too_many_and_there_are_none(tmp_path):
    cohort, facts = assemble(tmp_path, split_by_hash(), most=N_SAMPLES - 1)
    assert cohort.fold is None
    assert facts["folds"] == 0
    assert facts["judged"] == facts["test"]


def test_the_last_months_are_held_out_to_be_judged_by(tmp_path):
    cohort, facts = assemble(tmp_path, split_by_hash(holdout_months=2))
    assert cohort.fold is None
    assert facts["test"] > 0


def test_a_split_that_the_data_gives_is_kept(tmp_path):
    """Also where a single patient lies elsewhere than the hash says."""
    splits = split_by_hash()
    last = SUBJECTS[-1]
    splits[last] = (splits[last] + 1) % 4
    cohort, _ = assemble(tmp_path, splits)
    assert cohort.fold is None
