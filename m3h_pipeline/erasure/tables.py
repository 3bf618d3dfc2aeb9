"""Rows of forgotten patients in the Parquet files of a step, and in what its lineage counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from m3h_pipeline.contracts.quarantine_csv import get_csv_path, write_quarantine_csv
from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.erasure.subject_keys import KEYS, SubjectKeys
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.layout import INGESTED, LATEST, REPORT, find_valid_folders
from m3h_pipeline.state.lineage import (
    OUT_OF_SCOPE,
    count_rows_by_file,
    move_rows,
    read_whole_lineage,
)
from m3h_pipeline.state.permissions import create_private_file
from m3h_pipeline.state.steps import read_step, revise

REASON = "forgotten on request"
_SOURCE = {"source_file": pl.String(), "source_row": pl.Int64()}


def leave_out(ingested: Path, forgotten: Forgotten) -> int:
    """Take forgotten patients out of freshly ingested tables and count their rows as out of scope;
    return how many.
    """
    if not forgotten.subjects:
        return 0
    keys = SubjectKeys(forgotten)
    keys.update(pl.read_parquet(ingested / "samples.parquet", columns=list(KEYS)))
    subject_rows = _find_subject_rows(ingested, keys)
    _drop_from_files(ingested, subject_rows, keys)
    return sum(len(rows) for rows in subject_rows.values())


def erase_tables(folder: Path, keys: SubjectKeys) -> int:
    """Erase from the Parquet files of a folder, all at once; returns how many rows went."""
    subject_rows = _find_subject_rows(folder, keys)
    if subject_rows:
        revise(folder, lambda copy: _drop_from_files(copy, subject_rows, keys))
    return sum(len(rows) for rows in subject_rows.values())


def drop_rows(file: Path, keys: SubjectKeys) -> None:
    """Write a Parquet file anew without the rows of forgotten patients, for whom could read it
    before.
    """
    table = pl.scan_parquet(file)
    is_subjects = keys.match(table)
    assert is_subjects is not None
    partial = file.with_name(f".{file.name}.partial")
    create_private_file(partial)
    # In groups as before: what reads the file relies on their size.
    group = max(pq.ParquetFile(file).metadata.row_group(0).num_rows, 1)
    table.filter(~is_subjects).sink_parquet(
        partial, compression="zstd", row_group_size=group, engine="streaming"
    )
    partial.chmod(file.stat().st_mode & 0o777)
    os.replace(partial, file)
    if get_csv_path(file).exists():
        write_quarantine_csv(file)


def count_rows_anew(out: Path, snapshot: Path) -> None:
    """The lineage that a report shows follows what is left in the tables."""
    valid_folders = find_valid_folders(snapshot)
    report = read_step(snapshot / REPORT)
    if report is None:
        return
    for folder in valid_folders.values():
        step = read_step(folder)
        if step is None or step.version not in report.made_from:
            return
    lineage = read_whole_lineage(snapshot / INGESTED, valid_folders)
    folders = [snapshot / REPORT]
    metrics = out / LATEST / "metrics.json"
    if metrics.exists() and read_json(metrics).get("snapshot") == snapshot.name:
        folders.append(out / LATEST)
    for folder in folders:
        _replace_parquet(folder / "lineage.parquet", lineage)


def _find_subject_rows(folder: Path, keys: SubjectKeys) -> dict[str, pl.DataFrame]:
    """File -> source_file and source_row of each row of a forgotten patient in it (null where it
    names none), if it holds any.
    """
    rows_by_file = {}
    for file in sorted(folder.rglob("*.parquet")):
        table = pl.scan_parquet(file)
        is_subjects = keys.match(table)
        if is_subjects is None:
            continue
        schema = table.collect_schema()
        absent = [
            pl.lit(None, kind).alias(name) for name, kind in _SOURCE.items() if name not in schema
        ]
        subject_rows = table.filter(is_subjects).with_columns(absent).select(*_SOURCE)
        rows = subject_rows.collect(engine="streaming")
        if len(rows):
            rows_by_file[file.relative_to(folder).as_posix()] = rows
    return rows_by_file


def _drop_from_files(
    folder: Path, subject_rows: Mapping[str, pl.DataFrame], keys: SubjectKeys
) -> None:
    for file in subject_rows:
        drop_rows(folder / file, keys)
    if (folder / "samples.parquet").exists() and (folder / "lineage.parquet").exists():
        _count_out_of_scope(folder, subject_rows)


def _count_out_of_scope(ingested: Path, subject_rows: Mapping[str, pl.DataFrame]) -> None:
    """Count the rows of files that were taken out of ingested tables as out of scope.

    Many diagnoses make one label, so those of their file stay among the kept ones.
    """
    parts = [
        count_rows_by_file(rows.lazy()).with_columns(
            pl.lit(file.removesuffix(".parquet")).alias("table"), pl.lit(REASON).alias("reason")
        )
        for file, rows in subject_rows.items()
    ]
    if not parts:
        return
    file = ingested / "lineage.parquet"
    lineage = move_rows(pl.read_parquet(file), pl.concat(parts), OUT_OF_SCOPE)
    _replace_parquet(file, lineage)


def _replace_parquet(file: Path, frame: pl.DataFrame) -> None:
    partial = file.with_name(f".{file.name}.partial")
    frame.write_parquet(partial)
    os.replace(partial, file)
