"""Labels of the stays, from coded diagnoses and from the admissions' own columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import LABELS
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.tasks_file import TaskRule
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

# Columns that a task's label can come from.
_OUTCOMES = ("length_of_stay", "death_in_hospital", "discharge_location")
# Class of a discharge_location -> what MIMIC-IV calls it.
_PLACES = {
    "home": ["HOME"],
    "home_with_services": ["HOME HEALTH CARE"],
    "facility": [
        "SKILLED NURSING FACILITY",
        "REHAB",
        "CHRONIC/LONG TERM ACUTE CARE",
        "ACUTE HOSPITAL",
        "HEALTHCARE FACILITY",
        "ASSISTED LIVING",
        "PSYCH FACILITY",
        "OTHER FACILITY",
    ],
    "other": ["HOSPICE", "AGAINST ADVICE"],
    "died": ["DIED"],
}


def write_labels(extraction: Extraction, to: Path, rules: Sequence[TaskRule]) -> int:
    """Write the labels of every sample, of ``raw_diagnoses`` and ``stays``; return how many."""
    connection = extraction.connection
    _register_columns(extraction, [rule for rule in rules if rule.column])
    connection.execute(render_sql(_SQL / "column_labels.sql"))
    connection.execute(render_sql(_SQL / "diagnoses.sql"))
    extraction.count("labels", "diagnoses", "diagnoses")
    prefixes = [prefix for rule in rules for prefix in _prefixes(rule)]
    extraction.register("prefixes", prefixes, ["task", "version", "prefix"])
    connection.execute(render_sql(_SQL / "coded_labels.sql"))
    admissions = quote_literal(extraction.tables["admissions"].name)
    diagnoses = quote_literal(extraction.tables["diagnoses"].name)
    # What is known of a stay holds for each of its samples.
    parts = [
        f"SELECT *, {admissions} AS source_file FROM column_labels JOIN sample_ids USING (stay_id)",
        f"SELECT *, {diagnoses} AS source_file FROM coded_labels JOIN sample_ids USING (stay_id)",
        f"SELECT *, {diagnoses} AS source_file FROM wrong_diagnoses",
    ]
    names = [rule.spec.name for rule in rules]
    types = extraction.enumerate(
        "labels",
        sample_id="SELECT sample_id FROM sample_ids UNION SELECT stay_id FROM diagnoses",
        task=f"SELECT unnest({names}::VARCHAR[])",
    )
    order = "sample_id, task, source_row"
    return extraction.write_parts(to / "labels.parquet", LABELS, parts, order, types)


def _prefixes(rule: TaskRule) -> list[tuple[str, str, str]]:
    """Task, version of the ICD, prefix of its codes."""
    icd9 = [(rule.spec.name, "9", prefix) for prefix in rule.icd9]
    icd10 = [(rule.spec.name, "10", prefix) for prefix in rule.icd10]
    return icd9 + icd10


def _register_columns(extraction: Extraction, rules: Sequence[TaskRule]) -> None:
    """``column_tasks``, ``places`` and ``task_classes``, as column_labels.sql reads them."""
    classes = []
    for rule in rules:
        _check_column(rule)
        if rule.column == "discharge_location":
            names = enumerate(rule.spec.class_names)
            classes += [(rule.spec.name, name, float(number)) for number, name in names]
    tasks = [(rule.spec.name, rule.column) for rule in rules]
    places = [(text, name) for name, texts in _PLACES.items() for text in texts]
    extraction.register("column_tasks", tasks, ["task", "outcome"])
    extraction.register("places", places, ["place", "class_name"])
    extraction.register("task_classes", classes, ["task", "class_name", "factor"])


def _check_column(rule: TaskRule) -> None:
    """Raise `InputError` where a task's column is not known, or its classes aren't the places'."""
    if rule.column not in _OUTCOMES:
        raise InputError(
            f"tasks.yaml: {rule.spec.name}: MIMIC-IV has no column {rule.column!r}; "
            f"known are {', '.join(_OUTCOMES)}"
        )
    if rule.column != "discharge_location":
        return
    if unknown := sorted(set(rule.spec.class_names) ^ _PLACES.keys()):
        raise InputError(
            f"tasks.yaml: {rule.spec.name}: MIMIC-IV's places go to the classes "
            f"{', '.join(_PLACES)}; {', '.join(unknown)} does not agree"
        )
