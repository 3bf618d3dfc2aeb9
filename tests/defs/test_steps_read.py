"""What the tests of the graph see of a step that reads another."""

from pathlib import Path

import polars as pl
from opened_files import watch_files
from steps_read import steps_read

from m3h_pipeline.state.steps import produce


def write_numbers(to: Path) -> None:
    pl.DataFrame({"n": [1]}).write_parquet(to / "numbers.parquet")


def write_text(to: Path) -> None:
    (to / "name").write_text(to.name)


def test_what_a_step_reads_without_saying_so_is_seen(tmp_path):
    snapshot = tmp_path / "snapshots" / "2026-01-01"
    with watch_files(tmp_path) as events:
        cohort = produce(snapshot / "cohort", "key", write_numbers)
        produce(snapshot / "valid_notes", "key", write_text)

        def build(to: Path) -> None:
            # Polars opens the file, not Python.
            numbers = pl.scan_parquet(snapshot / "cohort" / "numbers.parquet").collect()
            numbers.with_columns(n=2).write_parquet(to / "numbers.parquet")

        produce(snapshot / "quality", "key", build)
        produce(snapshot / "tim_report", "key", write_text, [cohort.version])
    read = steps_read(events, snapshot)
    assert read["quality"] == {"cohort"}
    assert read["tim_report"] == {"cohort"}
    assert read["cohort"] == read["valid_notes"] == set()
