"""Forgetting a patient: out of every snapshot, cache and quarantine, and never in again.

``<out>/forgotten.json`` remembers who is to be left out: a keyed hash of each subject's id, never
the id. It is written before anything is erased, so an erasure that was killed is finished by the
next ``m3h forget`` or the next run. A new extraction leaves the same patients out, in one place,
whatever the source (`leave_out`).

A step is erased from as a whole: a copy is made beside it (of hard links, where files stay as they
are) and takes its place. Its key and version stay: nothing after it becomes stale, and nothing is
computed anew. Steps are taken from the last to the first, since the first ones say which stays and
samples are the patient's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core import Cohort
from m3h_core.data.cohort import TEST
from m3h_pipeline.erasure.arrays import erase_arrays, erase_cohort
from m3h_pipeline.erasure.forgotten import FILE, Forgotten
from m3h_pipeline.erasure.subject_keys import SubjectKeys, read_keys
from m3h_pipeline.erasure.tables import count_rows_anew, erase_tables
from m3h_pipeline.errors import InputError
from m3h_pipeline.scoring import scores
from m3h_pipeline.state.layout import (
    COHORT,
    INGESTED,
    INPUTS,
    LATEST,
    SNAPSHOTS,
    find_valid_folders,
    list_snapshot_folders,
    snapshot_folder,
)
from m3h_pipeline.state.locks import lock_exclusively
from m3h_pipeline.state.steps import clear_leftovers, read_step

# A place outside the snapshots that holds patients' data (a cache): erases those of the keys below
# the out-folder, returns how many records went. It is called before the snapshots are erased, which
# still hold the patients' own records, and again where it was killed.
Place = Callable[[Path, SubjectKeys], int]


def _erase_embeddings(out: Path, keys: SubjectKeys) -> int:
    from m3h_pipeline.features.items import erase_subjects  # the encoders' package

    cache = out / "cache" / "embeddings"
    samples = sorted(out.glob(f"{SNAPSHOTS}/*/{INPUTS}/samples.parquet"))
    return sum(erase_subjects(cache, file.parent, keys.subjects) for file in samples)


def _erase_scores(out: Path, keys: SubjectKeys) -> int:
    return scores.erase_subjects(out, keys.forgotten)


PLACES: dict[str, Place] = {
    "embedding cache": _erase_embeddings,
    "scores of all nights": _erase_scores,
}


@dataclass(frozen=True)
class Erased:
    """What an erasure did: rows that went, by place; model versions that had learned from the
    patient.
    """

    rows: dict[str, int]
    models: list[dict[str, Any]]
    was_forgotten_before: bool


def forget(
    out: Path,
    subject_id: str,
    *,
    models: Callable[[], Sequence[Any]] = tuple,
    on_wait: Callable[[], object] = lambda: None,
) -> Erased:
    """Erase a patient from an out-folder and remember to leave them out; waits until no step is
    being made.

    ``models``: gives the registered versions, with their snapshot and cohort. Raises `InputError`
    where no snapshot knows the subject and they were not forgotten before.
    """
    with lock_exclusively(out, on_wait=on_wait):
        forgotten = Forgotten.load(out)
        if forgotten.is_pending:
            _erase(out, forgotten)
        digest = forgotten.digest(subject_id)
        is_known = bool(count_samples(out, subject_id)) or scores.has_scored(out, subject_id)
        was_forgotten_before = digest in forgotten.subjects
        if not is_known and not was_forgotten_before:
            raise InputError(
                f"no snapshot in {out} knows the subject {subject_id!r}: nothing was erased. Write "
                "the id as the column subject_id of the samples table has it"
            )
        if is_known:
            recorded = forgotten.subjects.get(digest, {}).get("models", [])
            by_version = {
                model["version"]: model for model in _models_that_saw(out, subject_id, models())
            }
            by_version |= {model["version"]: model for model in recorded}
            forgotten.subjects[digest] = {"erased": False, "models": list(by_version.values())}
            forgotten.save(out)
        rows = _erase(out, forgotten)
        return Erased(rows, forgotten.subjects[digest]["models"], was_forgotten_before)


def finish_erasure(out: Path) -> None:
    """Finish an erasure that was killed; quick where there is none."""
    if (out / FILE).exists() and Forgotten.load(out).is_pending:
        with lock_exclusively(out):
            _erase(out, Forgotten.load(out))


def count_samples(out: Path, subject_id: str) -> dict[str, int]:
    """Snapshot -> number of the subject's stays (samples) in it."""
    counts: dict[str, int] = {}
    for snapshot in list_snapshot_folders(out):
        sample_ids: set[Any] = set()
        for keys in read_keys(snapshot):
            subject_rows = keys.filter(pl.col("subject_id") == subject_id)
            sample_ids.update(subject_rows.select(pl.last()).to_series())
        if sample_ids:
            counts[snapshot.name] = len(sample_ids)
    return counts


def _models_that_saw(out: Path, subject_id: str, versions: Sequence[Any]) -> list[dict[str, Any]]:
    """Registered versions whose training, validation or calibration split held the subject, or
    any part of a cross-fitted cohort.

    ``certain`` is False where the cohort that a version learned from is no longer there.
    """
    models = []
    for version in versions:
        folder = snapshot_folder(out, version.snapshot) / COHORT
        step = read_step(folder)
        certain = step is not None and step.version == version.cohort
        if certain:
            cohort = Cohort.load(folder)
            subjects = cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids
            is_seen = (cohort.split != TEST) | (cohort.fold is not None)
            if subject_id not in np.asarray(subjects)[is_seen]:
                continue
        models.append(
            {"version": version.version, "aliases": list(version.aliases), "certain": certain}
        )
    return models


def _erase(out: Path, forgotten: Forgotten) -> dict[str, int]:
    """Erase all who are on the list; rows by place."""
    clear_leftovers(out, LATEST)
    for removed in (out / SNAPSHOTS).glob(".*.removed"):
        shutil.rmtree(removed)
    keys = SubjectKeys(forgotten)
    for snapshot in list_snapshot_folders(out):
        for folder in {snapshot, *(path.parent.parent for path in snapshot.rglob("step.json"))}:
            clear_leftovers(folder)
        for table in read_keys(snapshot):
            keys.update(table)
    rows = {name: erase_place(out, keys) for name, erase_place in PLACES.items()}
    rows["latest"] = erase_tables(out / LATEST, keys)
    for snapshot in list_snapshot_folders(out):
        rows[snapshot.name] = _erase_snapshot(snapshot, keys)
        count_rows_anew(out, snapshot)
    for entry in forgotten.subjects.values():
        entry["erased"] = True
    if forgotten.subjects:
        forgotten.save(out)
    return rows


def _erase_snapshot(snapshot: Path, keys: SubjectKeys) -> int:
    """Erase from one snapshot, step by step, the first steps last."""
    rows = 0
    erase_arrays(snapshot, keys)
    for folder in _order_steps(snapshot):
        if folder.name == COHORT:
            erase_cohort(folder, keys)
        rows += erase_tables(folder, keys)
    return rows


def _order_steps(snapshot: Path) -> list[Path]:
    """All steps of a snapshot, the first ones last: they say which stays and samples are whose."""
    first_steps = [
        snapshot / COHORT,
        snapshot / INPUTS,
        *find_valid_folders(snapshot).values(),
        snapshot / INGESTED,
    ]
    steps = {file.parent for file in snapshot.rglob("step.json")}
    later_steps = sorted(steps.difference(first_steps))
    return [*later_steps, *(step for step in first_steps if step in steps)]
