"""The embedding job, run by hand as a launcher runs it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from embed_inputs import N, write_inputs
from safetensors.numpy import load_file

from m3h_core.embedders import EventSequences, load_embedder
from m3h_core.embedders.store import VectorStore
from m3h_pipeline import defs
from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.config import DEMO_SNAPSHOT
from m3h_pipeline.defs.io_manager import step_io_manager
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.features.items import erase_subjects, modality_items, take
from m3h_pipeline.jobs.embed import absent_embedder, embed, embed_nothing
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.state.steps import produce

pytestmark = pytest.mark.slow(30)


@pytest.fixture(scope="module")
def options(tiny_bert):
    return {
        "tabular": {},
        "timeseries": {"learned": False},
        "vision": {"image_size": 64, "batch_size": 8},
        "language": {"checkpoint": str(tiny_bert), "max_tokens": 32, "overlap": 4},
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("embed") / "inputs")


def config(modality: str, inputs: Path, options: dict, cache: Path, to: Path) -> dict:
    to.mkdir(parents=True, exist_ok=True)
    return {
        "modality": modality,
        "inputs": str(inputs),
        "options": options,
        "cache": str(cache),
        "cache_bytes": 10**9,
        "to": str(to),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def test_nothing_is_learned_from_other_splits(inputs, options, tmp_path):
    """Other splits' rows are replaced by strange ones: what was fitted, and the training rows'
    vectors, stay.
    """
    strange = write_inputs(tmp_path / "strange", stranger=1.0)
    train = (pl.read_parquet(inputs / "samples.parquet")["split"] == 0).to_numpy()
    learned = {"learned": True, "width_of_tokens": 8, "epochs": 2}
    for name, how in (*options.items(), ("learned", learned)):
        modality = "timeseries" if name == "learned" else name
        vectors = []
        for label, folder in (("plain", inputs), ("strange", strange)):
            to = tmp_path / label / name
            embed(config(modality, folder, how, tmp_path / label / "cache", to), lambda _: None)
            vectors.append(load_file(to / "embedding.safetensors")["vectors"])
        plain, other = (
            contents(tmp_path / label / name / "embedder") for label in ("plain", "strange")
        )
        assert plain == other, name
        if name == "learned":  # its last bit depends on which samples share a batch
            np.testing.assert_allclose(vectors[0][train], vectors[1][train], atol=1e-5)
        else:
            assert vectors[0][train].tobytes() == vectors[1][train].tobytes(), name
        assert not (vectors[0][~train] == vectors[1][~train]).all(), name


def test_series_come_in_steps_and_learn_from_the_training_split_alone(inputs, options, tmp_path):
    strange = write_inputs(tmp_path / "strange", stranger=1.0)
    train = (pl.read_parquet(inputs / "samples.parquet")["split"] == 0).to_numpy()
    written = []
    for label, folder in (("plain", inputs), ("strange", strange)):
        to = tmp_path / label
        job = config("timeseries", folder, options["timeseries"], tmp_path / "cache", to)
        embed(job | {"series_steps": 6}, lambda _: None)
        written.append(load_file(to / "embedding.safetensors"))
        embedder = load_embedder(to / "series_embedder")
        series, _ = embedder.transform(modality_items("timeseries", folder))
        assert series.tobytes() == written[-1]["series"].tobytes()
    assert contents(tmp_path / "plain/series_embedder") == contents(
        tmp_path / "strange/series_embedder"
    )
    plain, other = written
    assert plain["series"].shape == (N, embedder.width)
    assert plain["series"][train].tobytes() == other["series"][train].tobytes()
    assert not np.array_equal(plain["series"][~train], other["series"][~train])


def test_without_steps_and_of_other_modalities_there_is_no_series(inputs, options, tmp_path):
    for modality, steps in (("timeseries", 0), ("tabular", 6)):
        to = tmp_path / modality
        job = config(modality, inputs, options[modality], tmp_path / "cache", to)
        embed(job | {"series_steps": steps}, lambda _: None)
        assert set(load_file(to / "embedding.safetensors")) == {"vectors", "present"}
        assert not (to / "series_embedder").exists()


def test_what_has_no_vector_is_quarantined_with_a_reason(inputs, options, tmp_path):
    for modality, sample, item, reason in (
        ("language", "s003", "note_id", "no text"),
        ("vision", "s008", "image_id", "empty file"),
    ):
        to = tmp_path / modality
        facts = embed(
            config(modality, inputs, options[modality], tmp_path / "cache", to), lambda _: None
        )
        assert facts["unreadable"] == {reason: 1}
        rows = pl.read_parquet(to / "quarantine.parquet")
        assert rows.select("rule", "reason").rows() == [("can_be_embedded", reason)]
        assert json.loads(rows["row"][0]) == {"sample_id": sample, item: sample}
        assert (to / "quarantine.parquet").stat().st_mode & 0o077 == 0


def test_a_modality_that_nobody_has_is_written_as_its_job_would_write_it(inputs, options, tmp_path):
    """The vectors' bytes decide the cohort, and so the models; only the encoder is left out."""
    empty = tmp_path / "inputs"
    shutil.copytree(inputs, empty)
    for modality in ("language", "vision"):
        pl.read_parquet(inputs / f"{modality}.parquet").clear().write_parquet(
            empty / f"{modality}.parquet"
        )
        job = config(modality, empty, options[modality], tmp_path / "cache", tmp_path / modality)
        by_job = embed(job, lambda _: None)
        assert absent_embedder(modality, inputs, options[modality]) is None
        absent = absent_embedder(modality, empty, options[modality])
        assert absent is not None
        direct = tmp_path / "direct" / modality
        direct.mkdir(parents=True)
        facts = embed_nothing(absent, empty, direct)
        same = ("samples", "present", "width", "items computed", "unreadable")
        assert {name: facts[name] for name in same} == {name: by_job[name] for name in same}
        for file in ("embedding.safetensors", "quarantine.parquet"):
            assert (direct / file).read_bytes() == (tmp_path / modality / file).read_bytes(), (
                modality,
                file,
            )
        assert (direct / "quarantine.parquet").stat().st_mode & 0o077 == 0
        # What a registered model loads: a later night's items count as missing.
        vectors, present = load_embedder(direct / "embedder").transform(
            modality_items(modality, inputs)
        )
        assert vectors.shape == (N, by_job["width"])
        assert not present.any()


def test_a_modality_that_nobody_has_loads_no_encoder(inputs, options, tmp_path):
    empty = tmp_path / "inputs"
    shutil.copytree(inputs, empty)
    for modality in ("language", "vision"):
        pl.read_parquet(inputs / f"{modality}.parquet").clear().write_parquet(
            empty / f"{modality}.parquet"
        )
    code = f"""
import sys
from pathlib import Path
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.jobs.embed import absent_embedder, embed_nothing
for modality, options in {[(name, options[name]) for name in ("language", "vision")]!r}:
    to = Path({str(tmp_path)!r}, modality)
    to.mkdir()
    inputs = Path({str(empty)!r})
    embed_nothing(absent_embedder(modality, inputs, options), inputs, to)
print(*sorted({{"torch", "transformers", "timm", "torchvision"}}.intersection(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_items_are_read_from_disk_as_they_lie_there(inputs):
    order = pl.read_parquet(inputs / "samples.parquet")["sample_id"].to_list()
    rows = np.array([58, 3, 17, 0])
    for modality, columns in (
        ("language", ["hours", "text"]),
        ("vision", ["hours", "view", "path"]),
    ):
        table = pl.read_parquet(inputs / f"{modality}.parquet")
        expected = [table.filter(pl.col("sample_id") == i).select(columns).rows() for i in order]
        items = modality_items(modality, inputs)
        assert list(items) == expected
        assert list(take(items, rows)) == [expected[i] for i in rows]
    events = modality_items("timeseries", inputs)
    table = pl.read_parquet(inputs / "timeseries.parquet")
    place = {sample: i for i, sample in enumerate(order)}
    whole = EventSequences(
        [place[s] for s in table["sample_id"]],
        table["code"].to_list(),
        table["hours"],
        table["value"],
        len(order),
    )
    for some in (np.arange(N), rows):
        a = take(events, some).load()
        b = whole.take(some)
        assert a.n == b.n
        left = sorted(zip(a.sample, [a.codes[c] for c in a.code], a.hours, a.value, strict=True))
        assert left == sorted(zip(b.sample, b.code, b.hours, b.value, strict=True))


def test_a_forgotten_patient_leaves_the_cache(inputs, options, tmp_path):
    for modality in ("language", "vision"):
        embed(
            config(modality, inputs, options[modality], tmp_path / "cache", tmp_path / modality),
            lambda _: None,
        )
    # p0: the samples 0 and 1, two notes and one image (its features, and its file's key).
    assert erase_subjects(tmp_path / "cache", inputs, ["p0"]) == 4
    for modality, items in (("language", 2), ("vision", 1)):
        facts = embed(
            config(modality, inputs, options[modality], tmp_path / "cache", tmp_path / modality),
            lambda _: None,
        )
        assert facts["items computed"] == items
    assert erase_subjects(tmp_path / "nothing here", inputs, ["p0"]) == 0


def start(job: dict) -> subprocess.Popen:
    (Path(job["to"]) / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-m",
        "m3h_pipeline.jobs.embed",
        "--config",
        str(Path(job["to"]) / "job.json"),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_killed_job_goes_on_after_its_last_shard(options, tmp_path):
    """A real process is killed while it embeds; the next one embeds what is missing, to the same
    bytes.
    """
    inputs = write_inputs(tmp_path / "inputs")
    n = 5000
    ids = [f"s{i:03d}" for i in range(N)]
    owner = sorted(ids[i % N] for i in range(n))
    texts = [f"go ku {'la mo ' * (i % 90)} {i}" for i in range(n)]
    numbers = [str(i) for i in range(n)]
    notes = {
        "sample_id": owner,
        "hours": [-1.0] * n,
        "note_id": numbers,
        "kind": ["x"] * n,
        "text": texts,
    }
    pl.DataFrame(notes).write_parquet(inputs / "language.parquet", row_group_size=500)
    job = config("language", inputs, options["language"], tmp_path / "cache", tmp_path / "killed")
    process = start(job)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("cache/language-*/*.safetensors"))) < 1 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "embedding.safetensors").exists()
    kept = len(VectorStore(next(tmp_path.glob("cache/language-*"))))
    assert 0 < kept < n
    facts = embed(job, lambda _: None)
    assert facts["items computed"] == n - kept
    embed(
        config("language", inputs, options["language"], tmp_path / "other", tmp_path / "whole"),
        lambda _: None,
    )
    for name in ("embedding.safetensors", "embedder/embedder.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_that_is_not_there_is_said_in_one_line(inputs, tmp_path):
    process = start(
        config("language", inputs, {"checkpoint": "./none"}, tmp_path / "cache", tmp_path / "to")
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: language: checkpoint './none' is neither a folder nor a hub name" in errors
    assert "Traceback" not in errors


def test_without_a_cache_nothing_is_kept(inputs, options, tmp_path):
    job = config("language", inputs, options["language"], tmp_path / "cache", tmp_path / "to") | {
        "cache_bytes": 0
    }
    facts = embed(job, lambda _: None)
    assert facts["items computed"] == N - 6
    assert not (tmp_path / "cache").exists()


class _NoJob(JobLauncher):
    def run(self, *_: object, **__: object) -> dict:
        raise AssertionError("a job was started")


def test_a_modality_that_nobody_has_starts_no_job(inputs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare_folder(out, size="tiny")
    monkeypatch.delenv("DAGSTER_HOME")

    def build(to: Path) -> None:
        shutil.copytree(inputs, to, dirs_exist_ok=True)
        for modality in ("language", "vision"):
            file = to / f"{modality}.parquet"
            pl.read_parquet(file).clear().write_parquet(file)

    produce(out / "snapshots" / DEMO_SNAPSHOT / "inputs", "given", build)
    names = ["language_embedding", "vision_embedding"]
    resources = {
        "workspace": Workspace(out=str(out)),
        "launcher": _NoJob(out=str(out)),
        "io_manager": step_io_manager,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("snapshot", [DEMO_SNAPSHOT])
        done = dg.materialize(
            dg.load_assets_from_package_module(defs),
            selection=names,
            partition_key=DEMO_SNAPSHOT,
            resources=resources,
            instance=instance,
        )
    for asset in names:
        (made,) = done.asset_materializations_for_node(asset)
        assert made.metadata["samples with this modality"].value == 0
        assert made.metadata["vectors"].value == "none: nobody has this modality"
