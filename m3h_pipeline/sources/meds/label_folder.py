"""A folder of MEDS labels: a file or a folder a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from m3h_core.data.tasks import Problem, TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.meds.schemas import check_schema, name_shards
from m3h_pipeline.sources.tasks_file import TaskRule, load_tasks

# The columns that may hold a label, and the problem that each makes where tasks.yaml does not know
# the task.
_VALUES: dict[str, Problem] = {
    "boolean_value": "binary",
    "float_value": "regression",
    "categorical_value": "multiclass",
    "integer_value": "multiclass",
}


# Task -> its files by the name that metadata and messages give them.
LabelFiles = Mapping[str, Mapping[str, Path]]


def find_label_files(folder: Path) -> LabelFiles:
    """The files of each task, each held against the standard.

    A task's name is the hospital's own choice, and told; below its folder, as below ``data``, the
    name of a file may be a patient's.
    """
    from meds import LabelSchema

    files: dict[str, dict[str, Path]] = {}
    of_task: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        task, *below = file.relative_to(folder).parts
        if below:
            of_task.setdefault(task, []).append(file)
        else:
            files[file.stem] = {f"labels/{file.name}": file}
    for task, paths in of_task.items():
        names = {
            f"labels/{task}/{name}": path
            for name, path in name_shards(folder / task, paths).items()
        }
        files[task] = files.get(task, {}) | names
    for names in files.values():
        for name, file in names.items():
            check_schema(file, LabelSchema, folder / name.removeprefix("labels/"))
    if not files:
        raise InputError(
            f"{folder} holds no labels: a task is a file TASK.parquet or a folder TASK of them"
        )
    return dict(sorted(files.items()))


def make_rules(files: LabelFiles, only: Iterable[str] | None) -> list[TaskRule]:
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


def _make_spec(task: str, files: Mapping[str, Path], spec: TaskSpec | None) -> TaskSpec:
    shown, first = next(iter(files.items()))
    present = pl.read_parquet_schema(first)
    columns = [name for name in _VALUES if name in present]
    if len(columns) != 1:
        raise InputError(
            f"{shown} must have one of {', '.join(_VALUES)}; it has {', '.join(columns) or 'none'}"
        )
    if spec:
        return spec
    (column,) = columns
    problem = _VALUES[column]
    classes = _read_classes([*files.values()], column) if problem == "multiclass" else None
    try:
        return TaskSpec(task, problem, classes=classes, definition="as the label folder says")
    except ValueError as error:
        raise InputError(f"{shown}: {error}") from None


def _read_classes(files: list[Path], column: str) -> list[str]:
    values = pl.scan_parquet(files).select(pl.col(column).drop_nulls().unique().sort()).collect()
    return [str(value) for value in values.to_series()]
