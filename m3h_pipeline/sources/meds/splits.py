"""The splits that a MEDS dataset itself has."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.splits import split_of

_SPLITS = {"train": 0, "tuning": 1, "held_out": 3}


def register_own_splits(extraction: Extraction, root: Path) -> str:
    """Replace ``splits`` by the folder's own, where it has them; return where splits come from.

    Part of tuning is calibration, since MEDS knows no such split. A temporal hold-out counts more.
    """
    months = extraction.settings.holdout_months
    file = root / "metadata" / "subject_splits.parquet"
    if months:
        return f"the last {months} months"
    if not file.exists():
        return "a hash of the patient's id"
    _, valid, calibration, _ = extraction.settings.split
    tuning = valid + calibration
    own = _read_splits(file, (0.0, valid / tuning, calibration / tuning, 0.0))
    hashed = extraction.connection.sql("FROM splits").pl()
    joined = hashed.join(own, on="subject_id", how="left")
    splits = joined.select("subject_id", pl.coalesce("own", "split").alias("split"))
    extraction.register_frame("splits", splits)
    return (
        f"metadata/subject_splits.parquet; {joined['own'].null_count()} subjects that it lacks "
        "by a hash of their id"
    )


def _read_splits(file: Path, tuning: tuple[float, ...]) -> pl.DataFrame:
    """subject_id and its ``own`` split; ``tuning``: in which shares tuning is divided."""
    frame = pl.read_parquet(file)
    if unknown := int((~frame["split"].is_in(list(_SPLITS))).sum()):
        raise InputError(
            f"{file} has {unknown:,} rows with another split; MEDS knows {', '.join(_SPLITS)}"
        )
    rows = []
    for subject, split in frame.select("subject_id", "split").iter_rows():
        number = split_of(str(subject), tuning) if split == "tuning" else _SPLITS[split]
        rows.append((str(subject), number))
    return pl.DataFrame(rows, {"subject_id": pl.String, "own": pl.Int8}, orient="row")
