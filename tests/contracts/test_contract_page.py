"""The page of checks and rules: self-contained, says what failed, shows no patient's value."""

from __future__ import annotations

import re

import polars as pl
import pytest
from contract_tables import TASKS, frame, good

from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.validation import validate
from m3h_pipeline.reports.validation import write_validation
from m3h_pipeline.state.steps import Step

pytestmark = pytest.mark.slow(10)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Events of which a third have an unknown unit."""
    folder = tmp_path_factory.mktemp("page")
    for table in ("samples", "events"):
        (folder / table).mkdir()
    frame("samples", good("samples", folder)).write_parquet(folder / "samples_ingested.parquet")
    validate("samples", folder / "samples_ingested.parquet", folder / "samples")
    rows = frame("events", good("events", folder)).with_row_index()
    unit = (
        pl.when(pl.col("index") % 3 == 0)
        .then(pl.lit("<b>furlongs</b>"))
        .otherwise("unit")
        .alias("unit")
    )
    rows.with_columns(unit).drop("index").write_parquet(folder / "ingested.parquet")
    samples = folder / "samples" / "samples.parquet"
    facts = validate(
        "events", folder / "ingested.parquet", folder / "events", samples=samples, tasks=TASKS
    )
    return write_validation(
        "2026-01-01", {"events": Step(folder, "", "", facts)}, folder
    ).read_text()


def test_it_says_what_failed_and_names_every_rule(page):
    assert "failed</span>" in page
    assert "Most frequent reason: unknown_unit (17 of 50 rows)" in page
    assert all(rule.name in page for rule in load_contract("events").rules)


def test_it_counts_what_was_not_judged_apart(page):
    """There is no earlier snapshot, the source is not live, and two dozen stays are too few for the
    rest.
    """
    assert "11 checks: 3 passed, 1 failed, 7 not judged." in re.sub(r"\s+", " ", page)
    assert (
        "<td>not judged</td><td>Not judged: there is no earlier snapshot to compare with.</td>"
        in page
    )


def test_it_loads_nothing_and_runs_nothing(page):
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert "<script" not in page
    assert "url(" not in page


def test_it_shows_no_value(page):
    assert "furlongs" not in page
    assert not re.search(r"\bs\d+\b|\bp\d+\b", re.sub(r"(?s)<style>.*</style>", "", page))
