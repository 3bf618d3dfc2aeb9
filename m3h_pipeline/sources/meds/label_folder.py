"""A folder of MEDS labels: a file or a folder a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from m3h_core.data.tasks import Problem, TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.meds.schemas import check_schema
from m3h_pipeline.sources.tasks_file import TaskRule, load_tasks

# The columns that may hold a label, and the problem that each makes where tasks.yaml does not know
# the task.
_VALUES: dict[str, Problem] = {
    "boolean_value": "binary",
    "float_value": "regression",
    "categorical_value": "multiclass",
    "integer_value": "multiclass",
}


def find_label_files(folder: Path) -> dict[str, list[Path]]:
    """Task -> its files, each held against the standard."""
    from meds import LabelSchema

    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        check_schema(file, LabelSchema, file)
        task = file.relative_to(folder).parts[0].removesuffix(".parquet")
        files.setdefault(task, []).append(file)
    if not files:
        raise InputError(
            f"{folder} holds no labels: a task is a file TASK.parquet or a folder TASK of them"
        )
    return files


def make_rules(files: Mapping[str, list[Path]], only: Iterable[str] | None) -> list[TaskRule]:
    """The tasks of a label folder: as tasks.yaml says of that name, else as the kind of their
    values says.
    """
    specs = {rule.spec.name: rule.spec for rule in load_tasks()}
    tasks = [task for task in files if only is None or task in only]
    return [TaskRule(_make_spec(task, files[task], specs.get(task))) for task in tasks]


def value_column(file: Path) -> str:
    """The column that holds a file's labels."""
    columns = pl.read_parquet_schema(file)
    return next(name for name in _VALUES if name in columns)


def _make_spec(task: str, files: list[Path], spec: TaskSpec | None) -> TaskSpec:
    present = pl.read_parquet_schema(files[0])
    columns = [name for name in _VALUES if name in present]
    if len(columns) != 1:
        raise InputError(
            f"{files[0]} must have one of {', '.join(_VALUES)}; it has "
            f"{', '.join(columns) or 'none'}"
        )
    if spec:
        return spec
    (column,) = columns
    problem = _VALUES[column]
    classes = _read_classes(files, column) if problem == "multiclass" else None
    try:
        return TaskSpec(task, problem, classes=classes, definition="as the label folder says")
    except ValueError as error:
        raise InputError(f"{files[0].parent}: {error}") from None


def _read_classes(files: list[Path], column: str) -> list[str]:
    values = pl.scan_parquet(files).select(pl.col(column).drop_nulls().unique().sort()).collect()
    return [str(value) for value in values.to_series()]
