"""An out-folder to erase a patient from, and the patient."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from patient_steps import DAY, make_snapshot

from m3h_pipeline.demo import write_demo_hospital


@pytest.fixture(scope="package")
def hospital(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "files"
    write_demo_hospital(folder, 150, 0)
    return folder


@pytest.fixture(scope="package")
def whole(hospital, tmp_path_factory) -> Path:
    """An out-folder with two snapshots."""
    out = tmp_path_factory.mktemp("whole") / "out"
    for day in (DAY, "2026-01-02"):
        make_snapshot(hospital, out, day)
    return out


@pytest.fixture
def out(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture(scope="package")
def patient(whole) -> str:
    """A patient with more than one stay, and with a note that names a stay that does not exist."""
    wrong = pl.read_parquet(whole / "latest" / "quarantine" / "notes.parquet").filter(
        pl.col("rule") == "unknown_stay"
    )
    return json.loads(wrong["row"][0])["note_id"].split("-")[0]
