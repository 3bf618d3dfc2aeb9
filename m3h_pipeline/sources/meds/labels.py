"""Labels that come from a folder of their own, and the prediction times that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3h_pipeline.sources.base import LABELS
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.meds.label_folder import LabelFiles, value_column
from m3h_pipeline.sources.prediction import NONE
from m3h_pipeline.sources.tasks_file import TaskRule
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent


def read_labels(extraction: Extraction, rules: Sequence[TaskRule], files: LabelFiles) -> None:
    """``label_rows`` of the tasks' files, and from them ``given_times``."""
    parts = []
    classes = []
    for rule in rules:
        is_multiclass = rule.spec.problem == "multiclass"
        names = rule.spec.class_names if is_multiclass else ()
        classes += [(rule.spec.name, name, float(number)) for number, name in enumerate(names)]
        for file in files[rule.spec.name].values():
            column = value_column(file)
            number = "NULL" if is_multiclass else column
            parts.append(
                f"""SELECT subject_id, prediction_time, {quote_literal(rule.spec.name)} AS task,
                {column}::VARCHAR AS given, {number}::DOUBLE AS number, filename, file_row_number
                FROM read_parquet({quote_literal(file)}, filename = true, file_row_number = true)"""
            )
    extraction.register("label_classes", classes, ["task", "class_name", "factor"])
    extraction.connection.execute(f"CREATE TEMP VIEW labels_read AS {' UNION ALL '.join(parts)}")
    extraction.connection.execute(render_sql(_SQL / "label_rows.sql"))


def count_unread_labels(
    extraction: Extraction, rules: Sequence[TaskRule], files: LabelFiles
) -> None:
    """Note the rows of the label files of tasks that this run leaves out."""
    names = {rule.spec.name for rule in rules}
    for task in (task for task in files if task not in names):
        for name in files[task]:
            rows = extraction.rows_read[name]
            extraction.lineage.append(("labels", name, "a task that this run leaves out", rows))


def write_given_labels(extraction: Extraction, to: Path) -> int:
    """Write the labels of the samples at whose prediction time they were given."""
    extraction.connection.execute(render_sql(_SQL / "placed_labels.sql"), {"none": NONE["given"]})
    extraction.count("labels", "labels", "placed_labels")
    order = "sample_id, task, source_row"
    rows = ["FROM placed_labels WHERE reason IS NULL"]
    return extraction.write_parts(to / "labels.parquet", LABELS, rows, order)
