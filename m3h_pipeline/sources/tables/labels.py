"""Labels of the declared tasks, and vectors that the hospital computed itself."""

from __future__ import annotations

from pathlib import Path

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.errors import SIMILAR, InputError, suggest_similar
from m3h_pipeline.sources.base import EMBEDDINGS, LABELS
from m3h_pipeline.sources.tables.cohort_file import FILE
from m3h_pipeline.sources.tables.reading import NO_VALUE, TablesExtraction


def write_labels(extraction: TablesExtraction, to: Path) -> int:
    """Write ``labels.parquet``; return its rows."""
    extraction.read("labels")
    tasks = extraction.cohort.tasks
    problems = [(task.name, task.problem) for task in tasks]
    extraction.register("tasks", problems, ["task", "problem"])
    classes = [
        (task.name, name.lower(), float(i))
        for task in tasks
        for i, name in enumerate(_list_classes(task))
    ]
    extraction.register("classes", classes, ["task", "name", "factor"])
    extraction.connection.execute(extraction.render_table("labels", no_value=NO_VALUE))
    _check_tasks_have_labels(extraction)
    extraction.count("labels", "labels", "placed_labels")
    rows = extraction.select_placed("labels")
    order = "sample_id, task, value, source_row"
    return extraction.write_parts(to / "labels.parquet", LABELS, [rows], order)


def write_embeddings(extraction: TablesExtraction, to: Path) -> int:
    """Write ``embeddings.parquet``; return its rows."""
    file = to / "embeddings.parquet"
    order = "sample_id, modality, vector"
    if not extraction.read("embeddings"):
        return extraction.write_parts(file, EMBEDDINGS, [], order)
    extraction.connection.execute(extraction.render_table("embeddings"))
    extraction.count("embeddings", "embeddings", "placed_embeddings")
    rows = extraction.select_placed("embeddings")
    return extraction.write_parts(file, EMBEDDINGS, [rows], f"{order}, source_row")


def _check_tasks_have_labels(extraction: TablesExtraction) -> None:
    """A task without any label is misspelt, here or there."""
    counts = "SELECT task, count(value) FROM placed_labels WHERE reason IS NULL GROUP BY task"
    n_labels = dict(extraction.connection.execute(counts).fetchall())
    file = extraction.tables["labels"].file
    for task in extraction.cohort.tasks:
        if task.problem == "clustering" or n_labels.get(task.name):
            continue
        if task.name in n_labels:
            raise InputError(
                f"{file}: no value of the task {task.name} can be read: a {task.problem} task "
                f"takes {_describe_values(task)}"
            )
        advice = suggest_similar(task.name, [name for name in n_labels if name], SIMILAR)
        if not advice:
            advice = f": add rows with {task.name} in the column task, or take the task out"
        raise InputError(
            f"{extraction.folder / FILE}: the task {task.name} has no label in {file.name}{advice}"
        )


def _describe_values(task: TaskSpec) -> str:
    if task.problem == "multiclass":
        return f"one of {', '.join(_list_classes(task))}"
    return "0 or 1" if task.problem == "binary" else "numbers, with a decimal point"


def _list_classes(task: TaskSpec) -> tuple[str, ...]:
    return task.class_names if task.problem == "multiclass" else ()
