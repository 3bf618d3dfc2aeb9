"""What two environments exchange as files: a cohort's inputs and labels, a list of fits, the
predictions of each. NumPy and JSON alone.

Shapes: N rows of a cohort, F inputs, n test rows, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRAIN = "train"
VALID = "valid"
TEST = "test"
_LABELS = "labels of "


@dataclass(frozen=True)
class Fit:
    """One opponent on one task of a cohort file; the predictions of its test rows go to ``to``.

    ``seconds``: of CPU time, at most. ``checkpoints``: files of weights of a pretrained opponent,
    that of classes, then that of numbers.
    """

    opponent: str
    cohort: str
    task: str
    problem: str
    n_classes: int
    seed: int
    seconds: float
    to: str
    checkpoints: Sequence[str] = ()


def write_fits(file: Path, fits: Sequence[Fit]) -> None:
    """Write the list that :func:`read_fits` reads."""
    file.write_text(json.dumps([asdict(fit) for fit in fits], indent=1))


def read_fits(file: Path) -> list[Fit]:
    """What :func:`write_fits` wrote."""
    return [Fit(**record) for record in json.loads(file.read_text())]


def write_cohort(
    file: Path, x: np.ndarray, rows: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> None:
    """Write inputs [N, F], which rows are training, validation and test rows {split: bool [N]}, and
    labels {task: [N]}, NaN where there is none. Labels of other rows than training and validation
    are left out, whatever is given: no opponent can read them.
    """
    is_seen = rows[TRAIN] | rows[VALID]
    hidden = {_LABELS + task: np.where(is_seen, y, np.nan) for task, y in labels.items()}
    write_arrays(file, {"x": x.astype(np.float32), **rows, **hidden})


def read_cohort(file: Path, task: str) -> dict[str, np.ndarray]:
    """Of a cohort the inputs ``x``, the rows of each split, and the labels ``y`` of one task."""
    with np.load(file) as arrays:
        parts = {name: arrays[name] for name in ("x", TRAIN, VALID, TEST)}
        return {**parts, "y": arrays[_LABELS + task]}


def write_prediction(file: Path, prediction: np.ndarray, seconds: float) -> None:
    """Write predictions of the test rows, [n] or [n, C], and the CPU seconds that they took."""
    write_arrays(file, {"prediction": prediction, "seconds": np.array(seconds)})


def read_prediction(file: Path) -> tuple[np.ndarray, float]:
    """What :func:`write_prediction` wrote."""
    with np.load(file) as arrays:
        return arrays["prediction"], float(arrays["seconds"])


def write_arrays(file: Path, arrays: dict[str, Any]) -> None:
    """Write a NumPy archive, which is there in full or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as out:
        np.savez(out, **arrays)
    os.replace(temporary, file)
