"""A forgotten patient leaves every file of an out-folder, whenever the erasure was killed, and does
not come back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from traces import files, holding

from m3h_core import Cohort
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts import TABLES, split_rows
from m3h_pipeline.demo import write_demo_hospital
from m3h_pipeline.erasure import forgetting
from m3h_pipeline.erasure.forgetting import Forgotten, forget
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.features.assemble import write_cohort
from m3h_pipeline.registry.versions import Registered
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.sources import Settings
from m3h_pipeline.state.data_files import read_json, write_arrays, write_json
from m3h_pipeline.state.lineage import find_unaccounted, read_whole_lineage
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.steps import Step, produce, read_step

DAY = "2026-01-01"
MODALITIES = ("tabular", "timeseries", "language", "vision")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "files"
    write_demo_hospital(folder, 150, 0)
    return folder


def _ingest(hospital: Path, out: Path):
    def build(to: Path):
        facts = open_source("mimic-iv", hospital).extract(to, Settings())
        forgetting.leave_out(to, Forgotten.load(out))
        return facts

    return build


def _run(hospital: Path, out: Path, day: str) -> None:
    """Every step that holds patients, as the pipeline makes it; what is learned is drawn by lot."""
    root = out / "snapshots" / day
    draw = np.random.default_rng(0)

    def make(name: str, build, *made_from: Step) -> Step:
        return produce(root / name, name, build, [step.version for step in made_from])

    ingested = make("ingested", _ingest(hospital, out))
    valid: dict[str, Step] = {}
    for table in (table for table in TABLES if (ingested.folder / f"{table}.parquet").exists()):

        def split(to: Path, table: str = table) -> None:
            for beside in {"samples": ["columns.json"], "labels": ["tasks.json"]}.get(table, []):
                shutil.copy(ingested.folder / beside, to / beside)
            samples = valid["samples"].folder if "samples" in valid else None
            split_rows(
                table,
                ingested.folder / f"{table}.parquet",
                to / f"{table}.parquet",
                to / "quarantine.parquet",
                samples=samples and samples / "samples.parquet",
                quarantined_samples=samples and samples / "quarantine.parquet",
                tasks=[],
            )

        valid[table] = make(f"valid/{table}", split, ingested)
    inputs = make(
        "inputs",
        lambda to: write_inputs({name: s.folder for name, s in valid.items()}, to),
        *valid.values(),
    )
    n = len(pl.read_parquet(inputs.folder / "samples.parquet"))

    def embed(to: Path) -> None:
        arrays = {
            "vectors": draw.normal(size=(n, 3)).astype(np.float32),
            "present": draw.random(n) < 0.8,
        }
        write_arrays(to / "embedding.safetensors", arrays)

    embedded = {modality: make(f"embedding/{modality}", embed, inputs) for modality in MODALITIES}
    folders = {modality: step.folder for modality, step in embedded.items()}
    cohort = make(
        "cohort",
        lambda to: write_cohort(valid["samples"].folder, valid["labels"].folder, folders, to),
        *embedded.values(),
    )

    def predict(to: Path) -> None:
        write_arrays(
            to / "predictions.safetensors",
            {"a": draw.normal(size=n), "b": draw.normal(size=(n, 2))},
        )

    arms = [make(arm, predict, cohort) for arm in ("joint", "single_task", "trees")]

    def report(to: Path) -> None:
        ids = Cohort.load(cohort.folder).sample_ids
        pl.DataFrame({"sample_id": list(ids), "prediction": draw.random(n)}).write_parquet(
            to / "predictions.parquet"
        )
        (to / "quarantine").mkdir(mode=0o700)
        for table, step in valid.items():
            for ending in ("parquet", "csv"):
                shutil.copy(
                    step.folder / f"quarantine.{ending}", to / "quarantine" / f"{table}.{ending}"
                )
        read_whole_lineage(
            ingested.folder, {name: s.folder for name, s in valid.items()}
        ).write_parquet(to / "lineage.parquet")
        write_json(to / "metrics.json", {"snapshot": day})

    publish(out, make("report", report, ingested, *valid.values(), *arms).folder)


@pytest.fixture(scope="module")
def whole(hospital, tmp_path_factory) -> Path:
    """An out-folder with two snapshots."""
    out = tmp_path_factory.mktemp("whole") / "out"
    for day in (DAY, "2026-01-02"):
        _run(hospital, out, day)
    return out


@pytest.fixture
def out(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture(scope="module")
def patient(whole) -> str:
    """A patient with more than one stay, and with a note that names a stay that does not exist."""
    wrong = pl.read_parquet(whole / "latest" / "quarantine" / "notes.parquet").filter(
        pl.col("rule") == "unknown_stay"
    )
    return json.loads(wrong["row"][0])["note_id"].split("-")[0]


def _keys(whole: Path, patient: str) -> list[str]:
    samples = pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "samples.parquet")
    return [patient, *samples.filter(pl.col("subject_id") == patient)["stay_id"]]


def _contents(out: Path) -> dict[str, object]:
    """What every file says, whoever wrote it."""
    said: dict[str, object] = {}
    for file in files(out):
        name = file.relative_to(out).as_posix()
        if file.suffix == ".parquet":
            said[name] = pl.read_parquet(file).to_dict(as_series=False)
        elif file.suffix == ".safetensors":
            said[name] = {
                key: (values.shape, values.tobytes()) for key, values in load_file(file).items()
            }
        elif file.name != forgetting.FILE:
            said[name] = file.read_bytes()
    return said


def test_nothing_of_the_patient_is_left_and_nothing_else_is_gone(out, whole, patient):
    keys = _keys(whole, patient)
    assert len(keys) > 2
    notes = pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "notes.parquet").drop_nulls(
        "text"
    )
    is_theirs = pl.col("note_id").str.starts_with(patient)
    others = "\n".join(notes.filter(~is_theirs)["text"])
    sentences = "\n".join(notes.filter(is_theirs)["text"]).splitlines()
    text = next(
        line for line in sentences if len(line) > 20 and line not in others and '"' not in line
    )
    assert len(holding(out, keys)) >= 30
    assert holding(out, [text])
    erased = forget(out, patient)
    assert holding(out, [*keys, text]) == []
    rows_gone = dict(erased.rows)
    assert (
        rows_gone.pop("embedding cache") == 0
    )  # there is none here; test_main_job.py erases from one
    assert rows_gone.pop("scores of all nights") == 0  # likewise: test_scores.py
    assert set(rows_gone) == {"latest", DAY, "2026-01-02"}
    assert min(rows_gone.values()) > 0
    gone = 0
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
        rows = before.select(
            pl.struct(pl.exclude("text").cast(pl.String)).struct.json_encode()
        ).to_series()
        theirs = pl.Series([any(key in row for key in keys) for row in rows], dtype=pl.Boolean)
        assert after.equals(before.filter(~theirs)), file
        gone += theirs.sum()
    assert gone == sum(erased.rows.values())


def test_arrays_keep_the_rows_of_the_others(out, whole, patient):
    forget(out, patient)
    root = out / "snapshots" / DAY
    before = whole / "snapshots" / DAY
    order = pl.read_parquet(before / "inputs" / "samples.parquet")
    keep = (order["subject_id"] != patient).to_numpy()
    assert 0 < keep.sum() < len(keep)
    for name in [
        *(f"embedding/{m}/embedding" for m in MODALITIES),
        "joint/predictions",
        "trees/predictions",
    ]:
        was, now = (load_file(folder / f"{name}.safetensors") for folder in (before, root))
        assert all(np.array_equal(was[key][keep], now[key]) for key in was), name
    cohort = Cohort.load(before / "cohort")
    left = Cohort.load(root / "cohort")
    assert list(left.sample_ids) == [s for s, k in zip(cohort.sample_ids, keep, strict=True) if k]
    assert np.array_equal(left.embeddings["vision"], cohort.embeddings["vision"][keep])
    assert {name: list(values) for name, values in (left.groups or {}).items()} == {
        name: np.asarray(values)[keep].tolist() for name, values in (cohort.groups or {}).items()
    }


def test_the_next_run_takes_every_step_as_it_is(out, hospital, patient):
    before = {step: read_step(step.parent) for step in out.rglob("step.json")}
    forget(out, patient)
    after = {step: read_step(step.parent) for step in out.rglob("step.json")}
    assert after == before
    _run(hospital, out, DAY)  # raises where a step is made anew from tables that no longer fit
    assert {step: read_step(step.parent) for step in out.rglob("step.json")} == before


def test_a_new_extraction_leaves_the_patient_out_and_says_what_the_erased_one_says(
    out, hospital, whole, patient
):
    forget(out, patient)
    _run(hospital, out, "2026-01-03")
    assert holding(out, _keys(whole, patient)) == []
    old, new = (out / "snapshots" / day / "ingested" for day in (DAY, "2026-01-03"))
    read = read_step(new).info["rows read"]
    for file in sorted(old.glob("*.parquet")):
        assert pl.read_parquet(file).equals(pl.read_parquet(new / file.name)), file
        assert file.stem == "lineage" or find_unaccounted(new, file.stem, read) == []
    lineage = pl.read_parquet(new / "lineage.parquet").filter(pl.col("reason") == forgetting.REASON)
    assert set(lineage["outcome"]) == {"out_of_scope"}
    assert {"samples", "events", "notes"} <= set(lineage["table"])


def test_lineage_that_people_see_follows(out, patient):
    forget(out, patient)
    latest = pl.read_parquet(out / "latest" / "lineage.parquet")
    for table in ("samples", "notes"):
        quarantine = pl.read_parquet(out / "latest" / "quarantine" / f"{table}.parquet")
        mine = latest.filter((pl.col("table") == table) & (pl.col("outcome") == "quarantined"))
        assert mine["rows"].sum() == len(quarantine)


class _Killed(BaseException):
    """What a kill does, at a place of our choice."""


@pytest.fixture(scope="module")
def small(whole, tmp_path_factory) -> Path:
    """One snapshot only: it is erased many times."""
    out = tmp_path_factory.mktemp("small") / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(DAY))
    return out


def test_a_kill_anywhere_is_made_good(small, whole, tmp_path, monkeypatch, patient):
    """Stopped before every single rename and removal in turn, then finished by what the next run
    calls first.
    """
    shutil.copytree(small, tmp_path / "expected")
    forget(tmp_path / "expected", patient)
    expected = _contents(tmp_path / "expected")
    words = _keys(whole, patient)
    left = -1

    def counted(call):
        def wrapper(*arguments, **named):
            nonlocal left
            left -= 1
            if left == 0:
                raise _Killed
            return call(*arguments, **named)

        return wrapper

    for module, name in (
        (os, "replace"),
        (Path, "rename"),
        (Path, "replace"),
        (shutil, "rmtree"),
        (os, "link"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    places = 0
    place = 1
    while True:
        out = Path(shutil.copytree(small, tmp_path / f"out{place}"))
        left = place
        try:
            forget(out, patient)
            break
        except _Killed:
            places += 1
        left = -1
        if (out / forgetting.FILE).exists():
            forgetting.finish(out)
        else:
            forget(out, patient)
        assert _contents(out) == expected, place
        assert holding(out, words) == [], place
        shutil.rmtree(out)
        place += 37  # a prime: over the places of all steps, not all of one
    assert places >= 5


def test_a_killed_process_is_finished_by_the_next_command(out, whole, patient):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from m3h_pipeline.erasure import forgetting
        from m3h_pipeline.state import steps
        folders = []
        replace_folder = steps.replace_folder
        def kill_at_the_twelfth(new, folder):
            folders.append(folder)
            if len(folders) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            replace_folder(new, folder)
        steps.replace_folder = kill_at_the_twelfth
        forgetting.forget(Path(sys.argv[1]), sys.argv[2])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), patient], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert holding(out, _keys(whole, patient))
    assert Forgotten.load(out).pending
    forget(out, patient)
    assert holding(out, _keys(whole, patient)) == []
    assert not Forgotten.load(out).pending


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
    before = _contents(out)
    with pytest.raises(InputError, match="knows the subject 'nobody'"):
        forget(out, "nobody")
    assert _contents(out) == before
    assert not (out / forgetting.FILE).exists()


def test_forgetting_again_finds_nothing_and_keeps_what_is_known_of_the_models(out, patient):
    cohort = read_step(out / "snapshots" / DAY / "cohort").version
    split = Cohort.load(out / "snapshots" / DAY / "cohort")
    assert split.split[list(split.subject_ids or []).index(patient)] != 3
    versions = [
        Registered("1", ("champion",), DAY, cohort, False),
        Registered("2", (), DAY, "another cohort", True),
        Registered("3", (), "2020-01-01", cohort, False),
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
    version = Registered("1", (), DAY, read_step(out / "snapshots" / DAY / "cohort").version, True)
    assert forget(out, tested, models=lambda: [version]).models == []


def test_two_patients_in_either_order(out, whole, tmp_path, patient):
    other = next(
        s for s in pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "samples.parquet")["subject_id"]
        if s != patient
    )  # fmt: skip
    second = Path(shutil.copytree(whole, tmp_path / "second"))
    for folder, order in ((out, [patient, other]), (second, [other, patient])):
        for subject in order:
            forget(folder, subject)
    assert _contents(out) == _contents(second)


def test_a_step_that_follows_another_state_of_its_samples_is_removed(out, patient):
    embedding = out / "snapshots" / DAY / "embedding" / "vision"
    record = read_json(embedding / "step.json")
    write_json(embedding / "step.json", record | {"made_from": ["an earlier state"]})
    forget(out, patient)
    assert not embedding.exists()
    assert (embedding.parent / "language").exists()


def test_the_list_holds_no_id_and_only_its_owner_reads_it(out, patient):
    mask = os.umask(0)
    try:
        forget(out, patient)
    finally:
        os.umask(mask)
    file = out / forgetting.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert patient not in file.read_text()
    assert patient in Forgotten.load(out)
    assert "nobody" not in Forgotten.load(out)
    for quarantine in out.rglob("quarantine*"):
        assert quarantine.stat().st_mode & 0o077 == 0, quarantine
    for file in out.rglob("quarantine/*.parquet"):
        assert file.stat().st_mode & 0o077 == 0, file
    file = out / forgetting.FILE
    file.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Forgotten.load(out)
