"""The page that explains the format of a hospital's own tables: what it says holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from passage import Passage
from small_run import save_small

from m3h_pipeline import config
from m3h_pipeline.config import open_source

PAGE = Path(__file__).parents[2] / "docs" / "sources" / "tables.md"


def blocks(page: Path = PAGE) -> dict[str, str]:
    """A page's blocks that are files, by the name behind their language."""
    result = re.findall(r"```\w+ (\S+)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(result) == len(dict(result))
    return dict(result)


@pytest.mark.parametrize(
    ("page", "rows"), [(PAGE, [3, 3, 6]), (PAGE.parents[2] / "README.md", [1, 1, 1])]
)
def test_the_example_of_the_page_is_read_without_a_mistake(tmp_path, page, rows):
    root = tmp_path / "hospital"
    root.mkdir()
    for name, text in blocks(page).items():
        (root / name).write_text(text)
    result = Passage(open_source("tables", root), tmp_path / "out")
    assert not any(split.quarantined for split in result.split.values())
    assert [result.split[table].kept for table in ("samples", "events", "labels")] == rows
    assert set(result.facts["columns not read"]) == set()


def test_the_page_names_every_column(tmp_path):
    from m3h_pipeline.sources.tables.cohort_file import _KEYS
    from m3h_pipeline.sources.tables.formats import FORMATS

    page = PAGE.read_text()
    for table, columns in FORMATS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{table}`"))
        assert all(column in row for column in (*columns.needed, *columns.optional)), table
    assert all(f"`{key}`" in page for key in _KEYS)


@pytest.mark.slow(41)
def test_what_the_page_says_runs_to_a_report(tmp_path):
    for name, text in blocks().items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "make_hospital.py"], cwd=tmp_path, check=True)
    folder = tmp_path / "my-hospital"
    out = tmp_path / "my-run"
    (tmp_path / "cohort.yaml").rename(folder / "cohort.yaml")
    # The same run with little training: what is tested is the way of the data.
    save_small(config.configure_run(out, "tables", folder, None, "2026-11-01"), out)
    (command,) = re.findall(r"^    \.venv/bin/m3h (run .*)$", PAGE.read_text(), flags=re.MULTILINE)
    result = subprocess.run(
        [sys.executable, "-m", "m3h_pipeline.cli.main", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert result.returncode == 0, result.stderr
    latest = out / "latest"
    assert (latest / "report.html").stat().st_size > 10_000
    metrics = json.loads((latest / "metrics.json").read_text())
    assert [task["task"] for task in metrics["tasks"]] == [
        "death",
        "los",
        "destination",
        "phenotype",
    ]
    lineage = pl.read_parquet(latest / "lineage.parquet")
    rows = dict(lineage.group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert rows == {"samples.csv": 240, "events.csv": 240 * 8, "labels.csv": 240 * 3}
    predictions = pl.read_parquet(latest / "predictions.parquet")
    assert predictions["sample_id"].n_unique() == 240
