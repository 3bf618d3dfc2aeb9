"""Which split a subject belongs to.

Decided by a hash of the id alone, it never changes as the hospital grows. With a temporal hold-out,
the test split is the subjects who were admitted in the last months, with all of their stays: a
subject is in one split, and a model that has seen earlier stays of a patient would not be tested on
a new one. Who comes again then moves from another split to the test split; the others stay where
they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl

from m3h_core.data.cohort import SPLITS
from m3h_pipeline.errors import InputError

# Shares of subjects in train, valid, calibration and test.
FRACTIONS = (0.60, 0.15, 0.10, 0.15)


def split_of(subject_id: str, fractions: Sequence[float] = FRACTIONS) -> int:
    """The split of a subject: 0 train, 1 valid, 2 calibration, 3 test.

    The id's SHA-256, as a number in [0, 1), is compared with the cumulated fractions: the same on
    every machine.

    >>> [split_of(subject) for subject in ("10000032", "10001217", "10001725", "10002428")]
    [0, 0, 2, 2]
    """
    place = int.from_bytes(hashlib.sha256(subject_id.encode()).digest()[:8], "big") / 2**64
    below = 0.0
    for split, fraction in enumerate(fractions):
        below += fraction
        if place < below:
            return split
    # Only rounding of the sum leads here.
    return len(fractions) - 1


def split_subjects(
    subjects: pl.DataFrame, fractions: Sequence[float] = FRACTIONS, holdout_months: int = 0
) -> pl.DataFrame:
    """The split of each subject (subject_id, latest: their latest admission); null where there is
    no id.

    With ``holdout_months``, who was admitted in that many months before the latest admission of all
    is the test split, and the hash divides the others among the three that remain, in their shares.

    >>> import datetime as dt
    >>> days = [(2026, 3, 1), (2025, 12, 31), (2026, 1, 31)]
    >>> latest = [*(dt.datetime(*day) for day in days), None]
    >>> ids = ["10000032", "10001217", "10001725", None]
    >>> subjects = pl.DataFrame({"subject_id": ids, "latest": latest})
    >>> split_subjects(subjects)["split"].to_list()
    [0, 0, 2, None]
    >>> split_subjects(subjects, holdout_months=2)["split"].to_list()
    [3, 0, 3, None]
    """
    is_held_out = pl.lit(False)
    if holdout_months:
        others = sum(fractions[:-1])
        if others <= 0:
            raise InputError(f"split fractions {list(fractions)} leave nobody beside the hold-out")
        fractions = (*(fraction / others for fraction in fractions[:-1]), 0.0)
        since = pl.col("latest").max().dt.offset_by(f"-{holdout_months}mo")
        is_held_out = (pl.col("latest") >= since).fill_null(False)
    hashed = [subject and split_of(subject, fractions) for subject in subjects["subject_id"]]
    return subjects.select(
        "subject_id",
        pl.when(is_held_out & pl.col("subject_id").is_not_null())
        .then(pl.lit(len(fractions) - 1))
        .otherwise(pl.Series(hashed, dtype=pl.Int8))
        .cast(pl.Int8)
        .alias("split"),
    )


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise `InputError` unless there is a share for each split and they sum to 1."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(
            f"split fractions {list(fractions)} must be {len(SPLITS)} shares that sum to 1: "
            f"{', '.join(SPLITS)}"
        )
