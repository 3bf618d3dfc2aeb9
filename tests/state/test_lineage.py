"""Lineage: whatever rows become, those of a file sum to those that were read."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.erasure.tables import REASON, leave_out
from m3h_pipeline.state.lineage import find_unaccounted, read_whole_lineage

FILE = "admissions.csv"


def write(folder: Path, samples: list[list[bool]], out_of_scope: int = 2) -> dict[str, int]:
    """Stays, each a row of the file, with their samples (True: quarantined); returns the rows
    read.
    """
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "sample_id": f"{stay}-{n}",
            "stay_id": str(stay),
            "subject_id": f"p{stay}",
            "source_file": FILE,
            "source_row": stay + 1,
            "wrong": wrong,
        }
        for stay, of_stay in enumerate(samples)
        for n, wrong in enumerate(of_stay)
    ]
    text = ("sample_id", "stay_id", "subject_id", "source_file")
    schema = {**dict.fromkeys(text, pl.String), "source_row": pl.Int64, "wrong": pl.Boolean}
    table = pl.DataFrame(rows, schema=schema)
    table.drop("wrong").write_parquet(folder / "samples.parquet")
    wrong = table.filter("wrong").select(
        pl.lit("a_rule").alias("rule"), "source_file", "source_row"
    )
    wrong.write_parquet(folder / "quarantine.parquet")
    kept = sum(bool(those) for those in samples)
    pl.DataFrame(
        [
            ("samples", FILE, "0f", "kept", None, kept),
            ("samples", FILE, "0f", "out_of_scope", "too short", out_of_scope),
        ],
        schema=["table", "file", "sha256", "outcome", "reason", "rows"],
        orient="row",
    ).write_parquet(folder / "lineage.parquet")
    return {FILE: kept + out_of_scope}


def counts(lineage: pl.DataFrame) -> dict[str, int]:
    return dict(lineage.group_by("outcome").agg(pl.col("rows").sum()).sort("outcome").iter_rows())


def test_a_row_of_which_something_is_kept_is_kept(tmp_path):
    folder = tmp_path / "t"
    read = write(folder, [[False], [True, False, True], [True, True, True]])
    assert find_unaccounted(folder, "samples", read) == []
    assert counts(read_whole_lineage(folder, {"samples": folder})) == {
        "kept": 2,
        "out_of_scope": 2,
        "quarantined": 1,
    }


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=12), st.data()
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sums_agree_whatever_is_quarantined_and_whoever_is_forgotten(tmp_path, samples, data):
    folder = tmp_path / "t"
    read = write(folder, samples)
    wholly = sum(all(those) for those in samples)
    assert counts(read_whole_lineage(folder, {"samples": folder})).get("quarantined", 0) == wholly

    forgotten = Forgotten(b"0" * 32)
    removed = data.draw(st.sets(st.integers(0, len(samples) - 1)), label="forgotten")
    for stay in removed:
        forgotten.subjects[forgotten.digest(f"p{stay}")] = {"erased": True, "models": []}
    assert leave_out(folder, forgotten) == sum(len(samples[stay]) for stay in removed)
    assert find_unaccounted(folder, "samples", read) == []
    lineage = pl.read_parquet(folder / "lineage.parquet")
    assert lineage["rows"].sum() == read[FILE]
    assert lineage.filter(pl.col("reason") == REASON)["rows"].sum() == len(removed)
    whole = read_whole_lineage(folder, {"samples": folder})
    assert whole["rows"].sum() == read[FILE]


@pytest.mark.parametrize(
    ("read", "change", "words"),
    [
        ({FILE: 9}, lambda t: t, "9 rows were read, 4 are accounted for"),
        ({FILE: 4}, lambda t: t[1:], "2 rows are said to be kept, 1 lie there"),
        (
            {FILE: 4},
            lambda t: t.with_columns(source_file=pl.lit("other.csv")),
            "other.csv: the lineage does not know it",
        ),
    ],
)
def test_what_does_not_add_up_is_said(tmp_path, read, change, words):
    folder = tmp_path / "t"
    write(folder, [[False], [False]])
    change(pl.read_parquet(folder / "samples.parquet")).write_parquet(folder / "samples.parquet")
    assert any(words in problem for problem in find_unaccounted(folder, "samples", read))
