"""From the rows that were read to the samples of the cohort, so that the report's counts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.state.lineage import KEPT, QUARANTINED, count_rows_by_file
from m3h_pipeline.state.steps import Step
from m3h_pipeline.wording import join_words, pluralize


def count_sample_flow(lineage: pl.DataFrame, ingested: Path, valid: Path) -> dict[str, Any]:
    """How the kept rows of the samples table's files became samples.

    ``lineage``: the whole one; ``ingested`` and ``valid``: the samples table before and after its
    validation. Returns {"samples", "files": [{"file", "kept", "own"}]}: of a file's ``kept`` rows
    ``own`` were made into samples; the others only say more of the same patients and stays.
    """
    rows = lineage.filter(pl.col("table") == "samples").group_by(
        "file", "outcome", maintain_order=True
    )
    outcomes: dict[str, dict[str, int]] = {}
    for file, outcome, count in rows.agg(pl.col("rows").sum()).iter_rows():
        outcomes.setdefault(file, {})[outcome] = count
    made = dict(count_rows_by_file(pl.scan_parquet(ingested)).iter_rows())
    files = [
        {"file": file, "kept": of[KEPT], "own": max(0, made.get(file, 0) - of.get(QUARANTINED, 0))}
        for file, of in outcomes.items()
        if of.get(KEPT)
    ]
    return {"samples": pl.scan_parquet(valid).select(pl.len()).collect().item(), "files": files}


def describe_flow(flow: Mapping[str, Any]) -> list[str]:
    """The same in words.

    >>> stays = {"file": "stays.csv", "kept": 40, "own": 40}
    >>> patients = {"file": "patients.csv", "kept": 30, "own": 0}
    >>> for sentence in describe_flow({"samples": 40, "files": [stays, patients]}):
    ...     print(sentence)
    Of the 70 kept rows of Samples, 40 of stays.csv are the cohort's samples.
    The other 30 (30 of patients.csv) are no samples: they say more of the same patients and stays.
    """
    files: Sequence[Mapping[str, Any]] = flow["files"]
    own = [f"{file['own']:,} of {file['file']}" for file in files if file["own"]]
    if not own:
        return []
    kept = sum(file["kept"] for file in files)
    made = sum(file["own"] for file in files)
    became = "are the cohort's samples"
    if flow["samples"] != made:
        became = (
            f"became the cohort's {pluralize(flow['samples'], 'sample')}: a stay may have "
            "several, or none"
        )
    sentences = [f"Of the {kept:,} kept rows of Samples, {join_words(own)} {became}."]
    more = [
        f"{file['kept'] - file['own']:,} of {file['file']}"
        for file in files
        if file["kept"] > file["own"]
    ]
    if more:
        sentences.append(
            f"The other {kept - made:,} ({join_words(more)}) are no samples: they say more of "
            "the same patients and stays."
        )
    return sentences


def count_erased(valid: Mapping[str, Step]) -> dict[str, int]:
    """Table -> how many of its rows were erased, for forgotten patients, after its checks were
    made.
    """
    erased = {}
    for table, step in valid.items():
        left = pl.scan_parquet(step.folder / f"{table}.parquet").select(pl.len()).collect().item()
        if step.info["kept"] > left:
            erased[table] = step.info["kept"] - left
    return erased
