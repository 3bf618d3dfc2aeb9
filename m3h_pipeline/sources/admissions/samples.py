"""Stays and samples, of ``raw_patients`` and ``raw_admissions``."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.sources.base import samples_schema
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.prediction.points import make_points
from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

COLUMNS = Columns(
    features=("age", "sex", "admission_type", "insurance", "marital_status"),
    audit=("sex", "race", "language", "insurance"),
)
_TEXTS = ("sex", "admission_type", "insurance", "language", "marital_status", "race")
_DECLARED = {"age": "DOUBLE", **dict.fromkeys(_TEXTS, "VARCHAR")}


def make_stays(extraction: Extraction) -> None:
    """``stays_read``: each row of the admissions, with its patient and what is wrong with it."""
    extraction.connection.execute(render_sql(_SQL / "stays.sql"))


def make_icu_times(extraction: Extraction) -> None:
    """``icu_times`` of ``raw_icustays``, for the prediction a while after intensive care began."""
    extraction.connection.execute(render_sql(_SQL / "icu_times.sql"))
    extraction.count("samples", "icustays", "icu_rows")


def make_samples(extraction: Extraction) -> None:
    """``sample_rows`` and ``stays`` (one row a stay), by the prediction times of the settings."""
    settings = extraction.settings
    make_points(
        extraction.connection,
        settings.prediction,
        settings.prediction_hours,
        settings.nightly_at,
    )
    extraction.connection.execute(render_sql(_SQL / "samples.sql"))


def write_samples(extraction: Extraction, to: Path) -> int:
    """Write the samples with their ``splits``; return how many."""
    file = quote_literal(extraction.tables["admissions"].name)
    return extraction.write(
        to / "samples.parquet",
        samples_schema(_DECLARED),
        f"SELECT *, {file} AS source_file FROM sample_rows LEFT JOIN splits USING (subject_id)",
        "sample_id, source_row",
    )
