"""Which split a subject belongs to: decided by a hash of the id alone, so it never changes as the hospital grows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from m3h_core.cohort import SPLITS
from m3h_pipeline.errors import InputError

# Shares of subjects in train, valid, calibration and test.
FRACTIONS = (0.60, 0.15, 0.10, 0.15)


def split_of(subject_id: str, fractions: Sequence[float] = FRACTIONS) -> int:
    """The split of a subject: 0 train, 1 valid, 2 calibration, 3 test.

    The id's SHA-256, as a number in [0, 1), is compared with the cumulated fractions: the same on every machine.

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


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise `InputError` unless there is a share for each split and they sum to 1."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(f"split fractions {list(fractions)} must be {len(SPLITS)} shares that sum to 1: "
                         f"{', '.join(SPLITS)}")  # fmt: skip
