"""Whose scores are made, and the rows that they become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from m3h_core import TaskSpec
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import read_json

EARLIER = Path(__file__).parent / "model_format_1"


def test_who_is_scored(tmp_path):
    def write(name: str, rows: list[tuple[str, str | None]]) -> Path:
        frame = pl.DataFrame(rows, {"sample_id": pl.String, "discharge": pl.String}, orient="row")
        time = pl.lit("2026-01-01 00:00:00").str.to_datetime()
        frame = frame.with_columns(
            subject_id="sample_id",
            prediction_time=time,
            discharge_time=pl.col("discharge").str.to_datetime(),
        )
        frame.write_parquet(tmp_path / name)
        return tmp_path / name

    left = "2026-01-03 00:00:00"
    before = write("before", [("old", left), ("was in", None), ("is in", None)])
    now = write(
        "now", [("old", left), ("was in", left), ("is in", None), ("new", left), ("newest", None)]
    )
    chosen = scoring.select_samples(now, before, everyone=False)
    assert chosen.select("sample_id", "still_in", "new").rows() == [
        ("is in", True, False),
        ("new", False, True),
        ("newest", True, True),
        ("was in", False, False),
    ]
    assert len(scoring.select_samples(now, before, everyone=True)) == 5
    assert scoring.select_samples(now, None, everyone=False)["sample_id"].to_list() == [
        "is in",
        "newest",
    ]


@pytest.mark.slow(4)
def test_a_model_of_the_earlier_format_still_scores(tmp_path):
    """Logged by the code as it was before calibration, without that code: it runs on the m3h_core
    of today.
    """
    script = f"""
import json, mlflow, pandas as pd
from m3h_pipeline.jobs.score import load
example = json.load(open("{EARLIER}/example.json"))
model = mlflow.pyfunc.load_model("{EARLIER}/model")
scores = model.predict(pd.DataFrame(example["rows"]))
print(scores.to_json(orient="records", double_precision=15))
print(json.dumps([task.to_dict() for task in model.unwrap_python_model().model.tasks]))
"""
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    scores, tasks = map(json.loads, result.stdout.splitlines())
    for row, expected in zip(scores, read_json(EARLIER / "example.json")["scores"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    who = pl.DataFrame(
        {"sample_id": ["a", "b"], "subject_id": ["a", "b"], "still_in": [True, False], "new": False}
    )
    frame = pl.DataFrame(scores).to_pandas()
    rows = scoring.to_long_form(frame, who, [TaskSpec.from_dict(task) for task in tasks], set())
    scoring.write_scores([rows], tmp_path, version="7", snapshot="2026-01-01")
    kept = pl.read_parquet(tmp_path / "scores.parquet")
    assert len(kept) == 2 * (1 + 1 + 3 + 2)
    assert not kept["calibrated"].any()
    for column in ("set", "coverage", "distance"):
        assert kept[column].null_count() == len(kept)
