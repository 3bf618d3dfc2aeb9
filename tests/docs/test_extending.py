"""docs/extending.md: what it tells to write is written into a copy of the code, and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from embed_inputs import write_inputs
from passage import Passage
from tables_folder import COHORT, hospital, write

from m3h_pipeline.config import open_source
from m3h_pipeline.demo import write_demo_hospital
from m3h_pipeline.sources import tasks_file

pytestmark = pytest.mark.slow(20)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
# Blocks that are named after a file, and all differences.
BLOCKS: dict[str, str] = dict(
    re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
)
DIFFERENCES: list[str] = re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_a_task_of_coded_diagnoses_is_one_entry(tmp_path, monkeypatch):
    name = "data_contracts/tasks.yaml"
    (task,) = yaml.safe_load(BLOCKS[name])
    folder = tmp_path / "data_contracts"
    folder.mkdir()
    (folder / "tasks.yaml").write_text((ROOT / name).read_text() + BLOCKS[name])
    shutil.copy(ROOT / "data_contracts" / "signals.yaml", folder)
    monkeypatch.setattr(tasks_file, "contracts_folder", lambda: folder)
    write_demo_hospital(tmp_path / "hospital", 60, 0)
    passage = Passage(open_source("mimic-iv", tmp_path / "hospital"), tmp_path / "out")
    labels = passage.valid("labels").pivot("task", index="sample_id", values="value")
    either = pl.max_horizontal("heart_failure", "atrial_fibrillation")
    assert labels.select(either == pl.col(task["name"])).to_series().all()
    assert 0 < labels[task["name"]].sum() < len(labels)


def test_a_task_of_own_tables_is_one_entry_and_its_labels(tmp_path):
    (task,) = yaml.safe_load(BLOCKS["cohort.yaml"])
    tables = hospital()
    header, *rows = (line.split(",") for line in BLOCKS["labels.csv"].split())
    tables["labels"] += [dict(zip(header, row, strict=True)) for row in rows]
    write(tmp_path / "hospital", tables, {**COHORT, "tasks": [*COHORT["tasks"], task]})
    passage = Passage(open_source("tables", tmp_path / "hospital"), tmp_path / "out")
    labels = passage.valid("labels").filter(pl.col("task") == task["name"])
    assert dict(labels.select("sample_id", "value").rows()) == {"s1": 1.0, "s2": 0.0}
    assert not passage.reasons("labels")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """The code with the page's encoder and launcher."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("m3h_core", "m3h_pipeline", "data_contracts", "dagster_home"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BLOCKS:
        if name.endswith(".py"):
            assert not (root / name).exists()
            (root / name).write_text(BLOCKS[name])
    for difference in DIFFERENCES:
        done = subprocess.run(
            ["git", "apply", "-p1", "-"],
            cwd=root,
            input=difference,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)},
        )
        assert done.returncode == 0, done.stderr
    return root


_RUN = """
import json, sys, tomllib
from pathlib import Path
import dagster as dg
from m3h_core.embedders import load_embedder
from m3h_pipeline import config as configuration
from m3h_pipeline.jobs.encoders import encoder_options
from m3h_pipeline.features.items import modality_items
from m3h_pipeline.jobs.job import FACTS
from m3h_pipeline.jobs.launchers import JobLauncher

root, inputs, toml = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
config = configuration.Config.model_validate({**tomllib.loads(toml), "launcher": {"kind": "nice"}})
configuration.save(config, root)
assert configuration.load(root) == config
to = root / "embedding"
to.mkdir()
options = encoder_options("language", config.embedding)
job = {"modality": "language", "inputs": inputs, "options": options,
       "cache": str(root / "cache"), "cache_bytes": 10**9}

@dg.asset
def language_embedding(context: dg.AssetExecutionContext, launcher: JobLauncher):
    launcher.run(context, "embed", job, to)
    return dg.MaterializeResult()

done = dg.materialize([language_embedding], resources={"launcher": JobLauncher(out=str(root))})
assert done.success
items = modality_items("language", Path(inputs))
vectors, present = load_embedder(to / "embedder").transform(items)
from safetensors.numpy import load_file
saved = load_file(to / "embedding.safetensors")
assert vectors.tobytes() == saved["vectors"].tobytes()
assert present.tobytes() == saved["present"].tobytes()
facts = json.loads((to / FACTS).read_text())
print(json.dumps({"facts": facts, "spread": float(vectors[present].std())}))
"""


def test_the_encoder_is_chosen_and_its_job_started_by_the_launcher(extended, tmp_path):
    """One job of Dagster: the encoder's vectors come out, are the same once loaded, and `nice` was
    asked to run it; the one here does so at once, for on a busy machine the real one waits.
    """
    out = tmp_path / "out"
    shim = tmp_path / "bin" / "nice"
    out.mkdir()
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/asked\nshift 2\nexec "$@"\n')
    shim.chmod(0o755)
    inputs = write_inputs(tmp_path / "inputs")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(out), str(inputs), BLOCKS["m3h.toml"]],
        cwd=extended,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={
            **os.environ,
            "PYTHONPATH": str(extended),
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["facts"]["encoder"]["encoder"] == "hashed words"
    assert (result["facts"]["samples"], result["facts"]["present"]) == (60, 55)
    assert result["spread"] > 0.5
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["-n", "19"]
    assert "m3h_pipeline.jobs.embed" in asked


def test_every_place_that_a_modality_touches_is_there():
    rows = re.findall(r"^\| `([\w./]+)` \| (`.*?`) \|", PAGE, flags=re.MULTILINE)
    assert len(rows) > 10
    for name, symbols in rows:
        text = (ROOT / name).read_text()
        for symbol in re.findall(r"`(\w+)`", symbols):
            assert re.search(rf"\b{symbol}\b", text), f"{name} has no {symbol}"


def test_every_modality_is_named_where_the_page_says():
    """The table would be short of a row where a file that tells modalities apart is not in it."""
    listed = set(re.findall(r"^\| `([\w./]+)` \|", PAGE, flags=re.MULTILINE))
    telling = {
        str(file.relative_to(ROOT))
        for folder in ("m3h_core", "m3h_pipeline")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r'"language"', file.read_text()) and re.search(r'"vision"', file.read_text())
    }
    # Of one source's own data.
    assert telling - {"m3h_pipeline/sources/haim/layout.py"} <= listed
