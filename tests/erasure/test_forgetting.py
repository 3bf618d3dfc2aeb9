"""A forgotten patient leaves every file of an out-folder and does not come back."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from patient_steps import DAY, MODALITIES, keys_of, make_snapshot, read_contents
from safetensors.numpy import load_file
from traces import files_with

from m3h_core import Cohort, with_folds
from m3h_pipeline.erasure.forgetting import forget
from m3h_pipeline.erasure.forgotten import FILE, Forgotten
from m3h_pipeline.erasure.tables import REASON
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry.versions import RegisteredVersion
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.state.lineage import find_unaccounted
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.steps import read_step

pytestmark = pytest.mark.slow(60)


def test_nothing_of_the_patient_is_left_and_nothing_else_is_gone(out, whole, patient):
    keys = keys_of(whole, patient)
    assert len(keys) > 2
    notes = pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "notes.parquet").drop_nulls(
        "text"
    )
    is_subjects = pl.col("note_id").str.starts_with(patient)
    others = "\n".join(notes.filter(~is_subjects)["text"])
    sentences = "\n".join(notes.filter(is_subjects)["text"]).splitlines()
    text = next(
        line for line in sentences if len(line) > 20 and line not in others and '"' not in line
    )
    assert len(files_with(out, keys)) >= 30
    assert files_with(out, [text])
    erased = forget(out, patient)
    assert files_with(out, [*keys, text]) == []
    rows = dict(erased.rows)
    # There is none here; test_main_job.py erases from one.
    assert rows.pop("embedding cache") == 0
    # Likewise: test_scores.py.
    assert rows.pop("scores of all nights") == 0
    assert set(rows) == {"latest", DAY, "2026-01-02"}
    assert min(rows.values()) > 0
    n_erased = 0
    for file in whole.rglob("*.parquet"):
        before = pl.read_parquet(file)
        after = pl.read_parquet(out / file.relative_to(whole))
        if file.name == "lineage.parquet":
            sums = [
                frame.group_by("file").agg(pl.col("rows").sum()).sort("file")
                for frame in (before, after)
            ]
            assert sums[0].equals(sums[1])
            continue
        texts = before.select(
            pl.struct(pl.exclude("text").cast(pl.String)).struct.json_encode()
        ).to_series()
        is_subjects = pl.Series([_names_any(keys, text) for text in texts], dtype=pl.Boolean)
        assert after.equals(before.filter(~is_subjects)), file
        n_erased += is_subjects.sum()
    assert n_erased == sum(erased.rows.values())


def _names_any(keys: list[str], text: str) -> bool:
    return any(key in text for key in keys)


def test_arrays_keep_the_rows_of_the_others(out, whole, patient):
    forget(out, patient)
    root = out / "snapshots" / DAY
    before = whole / "snapshots" / DAY
    order = pl.read_parquet(before / "inputs" / "samples.parquet")
    kept = (order["subject_id"] != patient).to_numpy()
    assert 0 < kept.sum() < len(kept)
    for name in [
        *(f"{m}_embedding/embedding" for m in MODALITIES),
        "m3h_model/predictions",
        "tree_models/predictions",
    ]:
        was, now = (load_file(folder / f"{name}.safetensors") for folder in (before, root))
        assert all(np.array_equal(was[key][kept], now[key]) for key in was), name
    cohort = Cohort.load(before / "cohort")
    left = Cohort.load(root / "cohort")
    assert list(left.sample_ids) == [s for s, k in zip(cohort.sample_ids, kept, strict=True) if k]
    assert np.array_equal(left.embeddings["vision"], cohort.embeddings["vision"][kept])
    assert {name: list(values) for name, values in (left.groups or {}).items()} == {
        name: np.asarray(values)[kept].tolist() for name, values in (cohort.groups or {}).items()
    }


def test_the_next_run_takes_every_step_as_it_is(out, hospital, patient):
    before = {step: read_step(step.parent) for step in out.rglob("step.json")}
    forget(out, patient)
    after = {step: read_step(step.parent) for step in out.rglob("step.json")}
    assert after == before
    make_snapshot(
        hospital, out, DAY
    )  # raises where a step is made anew from tables that no longer fit
    assert {step: read_step(step.parent) for step in out.rglob("step.json")} == before


def test_a_new_extraction_leaves_the_patient_out_and_says_what_the_erased_one_says(
    out, hospital, whole, patient
):
    forget(out, patient)
    make_snapshot(hospital, out, "2026-01-03")
    assert files_with(out, keys_of(whole, patient)) == []
    old, new = (out / "snapshots" / day / "ingested" for day in (DAY, "2026-01-03"))
    read = read_step(new).info["rows read"]
    for file in sorted(old.glob("*.parquet")):
        assert pl.read_parquet(file).equals(pl.read_parquet(new / file.name)), file
        assert file.stem == "lineage" or find_unaccounted(new, file.stem, read) == []
    lineage = pl.read_parquet(new / "lineage.parquet").filter(pl.col("reason") == REASON)
    assert set(lineage["outcome"]) == {"out_of_scope"}
    assert {"samples", "events", "notes"} <= set(lineage["table"])


def test_lineage_that_people_see_follows(out, patient):
    forget(out, patient)
    latest = pl.read_parquet(out / "latest" / "lineage.parquet")
    for table in ("samples", "notes"):
        quarantine = pl.read_parquet(out / "latest" / "quarantine" / f"{table}.parquet")
        quarantined = latest.filter(
            (pl.col("table") == table) & (pl.col("outcome") == "quarantined")
        )
        assert quarantined["rows"].sum() == len(quarantine)


def test_it_waits_for_a_step_that_is_being_made(out, patient):
    started = threading.Event()
    waited = threading.Event()
    order = []

    def step() -> None:
        with lock_shared(out):
            started.set()
            assert waited.wait(30)
            order.append("step")

    worker = threading.Thread(target=step)
    worker.start()
    started.wait(30)
    forget(out, patient, on_wait=waited.set)
    order.append("erased")
    worker.join()
    assert order == ["step", "erased"]


def test_an_unknown_subject_is_refused_and_nothing_is_changed(out):
    before = read_contents(out)
    with pytest.raises(InputError, match="knows the subject 'nobody'"):
        forget(out, "nobody")
    assert read_contents(out) == before
    assert not (out / FILE).exists()


def test_forgetting_again_finds_nothing_and_keeps_what_is_known_of_the_models(out, patient):
    cohort = read_step(out / "snapshots" / DAY / "cohort").version
    split = Cohort.load(out / "snapshots" / DAY / "cohort")
    assert split.split[list(split.subject_ids or []).index(patient)] != 3
    versions = [
        RegisteredVersion("1", ("champion",), DAY, cohort, False),
        RegisteredVersion("2", (), DAY, "another cohort", True),
        RegisteredVersion("3", (), "2020-01-01", cohort, False),
    ]
    first = forget(out, patient, models=lambda: versions)
    assert [(m["version"], m["certain"]) for m in first.models] == [
        ("1", True),
        ("2", False),
        ("3", False),
    ]
    second = forget(out, patient, models=lambda: versions)
    assert second.was_forgotten_before
    assert not any(second.rows.values())
    assert second.models == first.models


def test_a_model_that_only_tested_on_the_patient_has_not_learned_from_them(out):
    cohort = Cohort.load(out / "snapshots" / DAY / "cohort")
    tested = next(
        s for s, split in zip(cohort.subject_ids or [], cohort.split, strict=True) if split == 3
    )
    version = RegisteredVersion(
        "1", (), DAY, read_step(out / "snapshots" / DAY / "cohort").version, True
    )
    assert forget(out, tested, models=lambda: [version]).models == []


def test_a_cross_fitted_model_has_learned_from_every_patient(out):
    folder = out / "snapshots" / DAY / "cohort"
    cohort = with_folds(Cohort.load(folder), 3)
    cohort.save(folder)
    tested = next(
        s for s, split in zip(cohort.subject_ids or [], cohort.split, strict=True) if split == 3
    )
    version = RegisteredVersion("1", ("champion",), DAY, read_step(folder).version, True)
    (model,) = forget(out, tested, models=lambda: [version]).models
    assert (model["version"], model["certain"]) == ("1", True)
    # The folds of the others stay.
    left = Cohort.load(folder)
    assert left.fold is not None
    is_kept = cohort.subjects != tested
    assert 0 < is_kept.sum() < len(cohort)
    assert np.array_equal(left.fold, cohort.fold[is_kept])


def test_two_patients_in_either_order(out, whole, tmp_path, patient):
    samples = pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "samples.parquet")
    other = next(subject for subject in samples["subject_id"] if subject != patient)
    second = Path(shutil.copytree(whole, tmp_path / "second"))
    for folder, order in ((out, [patient, other]), (second, [other, patient])):
        for subject in order:
            forget(folder, subject)
    assert read_contents(out) == read_contents(second)


def test_a_step_that_follows_another_state_of_its_samples_is_removed(out, patient):
    embedding = out / "snapshots" / DAY / "vision_embedding"
    record = read_json(embedding / "step.json")
    write_json(embedding / "step.json", record | {"made_from": ["an earlier state"]})
    forget(out, patient)
    assert not embedding.exists()
    assert (embedding.parent / "language_embedding").exists()


def test_the_list_holds_no_id_and_only_its_owner_reads_it(out, patient):
    mask = os.umask(0)
    try:
        forget(out, patient)
    finally:
        os.umask(mask)
    file = out / FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert patient not in file.read_text()
    assert patient in Forgotten.load(out)
    assert "nobody" not in Forgotten.load(out)
    for quarantine in out.rglob("quarantine*"):
        assert quarantine.stat().st_mode & 0o077 == 0, quarantine
    for file in out.rglob("quarantine/*.parquet"):
        assert file.stat().st_mode & 0o077 == 0, file
    file = out / FILE
    file.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Forgotten.load(out)
