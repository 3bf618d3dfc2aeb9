"""What the files of a hospital must hold, and what their columns are called elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from m3h_pipeline.sources.raw_tables import RawTable
from m3h_pipeline.sources.tables.cohort_file import CohortFile


@dataclass(frozen=True)
class FileFormat:
    """Columns of one of the files: those that must be there, and those that may."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


FORMATS = {
    "samples": FileFormat(
        ("stay_id", "subject_id", "admit_time", "discharge_time"),
        ("sample_id", "prediction_time", "split"),
    ),
    "events": FileFormat(("stay_id", "time", "code", "value", "unit"), ("available_time",)),
    "codes": FileFormat(("stay_id", "time", "kind", "code"), ("available_time", "value")),
    "notes": FileFormat(("stay_id", "note_id", "time", "kind", "text"), ("available_time",)),
    "images": FileFormat(("stay_id", "image_id", "time", "view", "path"), ("available_time",)),
    "labels": FileFormat(("sample_id", "task", "value")),
    "embeddings": FileFormat(("sample_id", "modality", "vector")),
}
REQUIRED_TABLES = ("samples", "labels")
TIME_COLUMNS = {"admit_time", "discharge_time", "prediction_time", "time", "available_time"}
ID_COLUMNS = {"sample_id", "stay_id", "subject_id", "note_id", "image_id"}
# What these columns are called elsewhere (MIMIC-IV, OMOP and common sense), for the error that says
# what to rename.
OTHER_NAMES = {
    "stay_id": (
        *("hadm_id", "encounter_id", "visit_id"),
        *("visit_occurrence_id", "admission_id", "case_id"),
    ),
    "subject_id": (
        *("patient_id", "patient", "person_id"),
        *("mrn", "pid", "patient_number", "patientid"),
    ),
    "sample_id": ("stay_id", "hadm_id", "encounter_id", "visit_id"),
    "admit_time": (
        *("admittime", "admission_time", "admission"),
        *("admitted", "visit_start_datetime", "start_time"),
    ),
    "discharge_time": ("dischtime", "discharge", "discharged", "visit_end_datetime", "end_time"),
    "time": (
        *("charttime", "datetime", "timestamp", "measurement_datetime", "starttime", "date"),
        *("measured_at", "taken_at", "collected_at", "collection_time", "event_time"),
    ),
    "available_time": ("storetime", "result_time", "available_at", "known_time", "filed_time"),
    "code": (
        *("itemid", "measurement_concept_id", "signal", "label"),
        *("test", "test_name", "parameter", "variable", "analyte", "item", "name"),
    ),
    "value": (
        *("valuenum", "value_as_number", "result", "result_value", "numeric_value"),
        *("label", "target", "outcome", "class", "y"),
    ),
    "unit": ("valueuom", "unit_source_value", "uom"),
    "note_id": ("document_id", "doc_id", "id"),
    "image_id": ("dicom_id", "study_id", "id"),
    "view": ("viewposition", "projection"),
    "kind": ("category", "note_type", "type"),
    "text": ("note_text", "note", "report"),
    "path": ("file", "filename", "image_path"),
    "task": ("name", "target", "label", "outcome", "endpoint"),
    "vector": ("embedding", "features"),
}


def select_columns(table: str, raw: RawTable, cohort: CohortFile) -> list[str]:
    """The columns of a file that are read."""
    file_format = FORMATS[table]
    optional = [name for name in file_format.optional if name in raw.columns]
    declared = cohort.columns.declared if table == "samples" else ()
    return [*file_format.needed, *optional, *declared]


def collect_vocabulary(cohort: CohortFile) -> set[str]:
    """Names of columns that are known: the format's, what others call them, and those that
    cohort.yaml declares.
    """
    vocabulary = set(cohort.columns.declared)
    for file_format in FORMATS.values():
        vocabulary.update(file_format.needed, file_format.optional)
    return vocabulary.union(*OTHER_NAMES.values())
