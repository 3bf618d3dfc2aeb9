"""Predictions on disk, under keys that hash all that they follow from: what is there is never
computed again.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

import m3h_core
from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.files import fingerprint
from quality_study.arms import Arm, Predictions

# The library's modules and packages that a network's prediction follows from, and files in these
# that have no effect here. Embedders need no hash: their vectors have one.
_OF_NETWORKS = ("config.py", "losses.py", "data", "model", "training", "ensemble")
_WITHOUT_EFFECT = {
    "__init__.py",
    "cross_fit.py",
    "fitted_ensemble.py",
    "fold_models.py",
    "folds.py",
    "mixture.py",
    "search.py",
    "shares.py",
    "trees.py",
}
_SECONDS = "seconds"


class Store:
    """A folder of predictions; a killed run leaves nothing half-written, and two runs may share
    it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = self.misses = 0
        folder.mkdir(parents=True, exist_ok=True)

    def predictions(
        self,
        arm: Arm,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        seed: int,
        keep: Sequence[TaskSpec] = (),
    ) -> tuple[Predictions, float]:
        """Predictions of these tasks (``keep``: of these alone) and the CPU seconds that they took
        when computed.
        """
        units = [[task] for task in tasks] if arm.by_task else [list(tasks)]
        predictions: Predictions = {}
        seconds = 0.0
        for unit in units:
            names = [task.name for task in unit if not keep or task in keep]
            part, took = self._unit(arm, cohort, unit, seed, names)
            predictions |= part
            seconds += took
        return predictions, seconds

    def _unit(
        self, arm: Arm, cohort: Cohort, tasks: list[TaskSpec], seed: int, names: list[str]
    ) -> tuple[Predictions, float]:
        file = self.folder / f"{arm.name}-{key(arm, cohort, tasks, seed, names)}.npz"
        if not file.exists():
            self.misses += 1
            started = _cpu_seconds()
            fitted = arm.fit(cohort, tasks, seed)
            took = _cpu_seconds() - started
            arrays = {name: fitted[name].astype(np.float32) for name in names}
            _write(file, arrays | {_SECONDS: np.array(took)})
        else:
            self.hits += 1
        with np.load(file) as arrays:
            return {name: arrays[name] for name in names}, float(arrays[_SECONDS])


def _cpu_seconds() -> float:
    """Of this process, all its threads, and the processes that it has started and that ended."""
    return sum(os.times()[:4])


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as out:
        np.savez(out, **arrays)  # ty: ignore[invalid-argument-type] (its allow_pickle is no array)
    os.replace(temporary, file)


def key(
    arm: Arm, cohort: Cohort, tasks: Sequence[TaskSpec], seed: int, keep: Sequence[str] = ()
) -> str:
    """A hash of all that an arm's predictions follow from; the labels of test rows are not among
    it.
    """
    seen = np.isin(cohort.split, (TRAIN, VALID))
    labels = [
        np.where(seen & cohort.labelled[task.name], cohort.labels[task.name], np.nan)
        for task in tasks
    ]
    about = [dict(arm.settings), seed, [task.to_dict() for task in tasks], list(keep)]
    code = network_code() if arm.network else ""
    inputs = [cohort.embeddings[name] for name in sorted(cohort.embeddings)]
    present = [cohort.present[name] for name in sorted(cohort.present)]
    about.append(sorted(cohort.embeddings))
    split = np.where(seen, cohort.split, -1)
    return fingerprint(about, code, split, *inputs, *present, *labels)


@cache
def network_code() -> str:
    """A hash of the library's code that networks follow from; comments and layout don't count."""
    root = Path(m3h_core.__file__).parent
    files = [file for name in _OF_NETWORKS for file in _list_modules(root / name)]
    return fingerprint(
        *[bare_code(file.read_text()) for file in files if file.name not in _WITHOUT_EFFECT]
    )


def _list_modules(place: Path) -> list[Path]:
    """A module, or those of a package."""
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def bare_code(source: str) -> str:
    """Code without docstrings, comments and layout, to be hashed.

    >>> bare_code("x = 1  # one") == bare_code("x=1")
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return ast.dump(tree)
