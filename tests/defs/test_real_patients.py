"""The main job on the 100 real patients of the MIMIC-IV demo."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
from small_run import save_small

from m3h_pipeline import config

pytestmark = pytest.mark.slow(90)


@pytest.fixture(scope="module")
def latest(mimic_demo, tmp_path_factory):
    """A finished run that trains little: what is tested is the way of the data."""
    out = tmp_path_factory.mktemp("real") / "out"
    save_small(config.configure_run(out, "mimic-iv", mimic_demo, None, "2026-11-01"), out)
    result = subprocess.run(
        [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--out", str(out)],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out / "latest"


def test_every_row_read_is_accounted_for(latest):
    lineage = pl.read_parquet(latest / "lineage.parquet")
    rows = dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert rows["hosp/admissions.csv.gz"] == 275
    assert rows["hosp/labevents.csv.gz"] == 107_727
    assert rows["icu/chartevents.csv.gz"] == 666_587
    assert rows["hosp/diagnoses_icd.csv.gz"] == 4_506
    kept = lineage.filter(
        (pl.col("file") == "hosp/admissions.csv.gz") & (pl.col("outcome") == "kept")
    )
    assert kept["rows"].sum() == 245


def test_tasks_with_too_few_positives_are_not_claimed(latest):
    tasks = json.loads((latest / "metrics.json").read_text())["tasks"]
    assert len(tasks) == 44
    assert any(task["claimed"] for task in tasks)
    unclaimed = [task for task in tasks if not task["claimed"]]
    assert unclaimed
    assert all(task["value"] is None and task["reason"] for task in unclaimed)


def test_absent_modalities_are_reported(latest):
    page = (latest / "report.html").read_text()
    assert "delivered no data for: language, vision" in page
