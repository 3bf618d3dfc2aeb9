"""Small canonical tables whose rows are all good, and a way to make single rows wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.model import PROVENANCE
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.split import SplitResult, split_rows

ADMITTED = datetime(2150, 3, 1, 8)
STAYS = 24
TASKS = [
    TaskSpec("death", "binary"),
    TaskSpec("destination", "multiclass", classes=["home", "facility", "died"]),
    TaskSpec("los", "regression", unit="days"),
    TaskSpec("phenotype", "clustering"),
]


def hours(n: float) -> datetime:
    """A time n hours after admission; every stay is admitted at the same moment and lasts 72
    hours.
    """
    return ADMITTED + timedelta(hours=n)


def samples() -> list[dict[str, Any]]:
    """One sample a stay, each of its own patient; the splits in turn."""
    return [
        {
            "sample_id": f"s{i}",
            "stay_id": f"s{i}",
            "subject_id": f"p{i}",
            "admit_time": ADMITTED,
            "discharge_time": None if i == 5 else hours(72),
            "prediction_time": hours(24),
            "split": i % 4,
            "age": 40.0 + i,
            "sex": "FM"[i % 2],
            "admission_type": "URGENT",
            "insurance": None if i == 3 else "Other",
            "language": "English",
            "marital_status": None,
            "race": "WHITE",
        }
        for i in range(STAYS)
    ]


def events() -> list[dict[str, Any]]:
    """Two measurements a stay, and one after admission that was taken in the emergency room."""
    rows = []
    for i in range(STAYS):
        for code, value, unit in [("heart_rate", 80.0 + i, "bpm"), ("sodium", 140.0, "mEq/L")]:
            rows.append(
                _timed(i, hours(2), hours(3)) | {"code": code, "value": value, "unit": unit}
            )
    rows.append(
        _timed(0, hours(-20), hours(-19)) | {"code": "sodium", "value": 139.0, "unit": "mEq/L"}
    )
    # A procedure that was written down a little before it began.
    rows.append(
        _timed(0, hours(5), hours(4.7)) | {"code": "intubation", "value": 1.0, "unit": "count"}
    )
    return rows


def codes() -> list[dict[str, Any]]:
    """A drug a stay, ordered twice, and a diagnosis of an earlier stay that was coded later."""
    rows = []
    for i in range(STAYS):
        order = {"kind": "drug_ordered", "code": "insulin/insulin glargine", "value": 20.0}
        rows += [_timed(i, hours(2), hours(2)) | order] * 2
        earlier = {"kind": "earlier_diagnosis", "code": "icd10/I/I50/I509", "value": None}
        rows.append(_timed(i, hours(-24 * 400), hours(-24 * 393)) | earlier)
    return rows


def notes() -> list[dict[str, Any]]:
    """A note a stay."""
    text = "No acute distress. Température 38 °C.\nLungs clear."
    return [
        _timed(i, hours(4), hours(5)) | {"note_id": f"n{i}", "kind": "radiology", "text": text}
        for i in range(STAYS)
    ]


def images(folder: Path) -> list[dict[str, Any]]:
    """An image a stay, each a file of its own."""
    rows = []
    for i in range(STAYS):
        path = folder / f"{i}.jpg"
        path.write_bytes(b"\xff\xd8")
        rows.append(
            _timed(i, hours(4), hours(4)) | {"image_id": f"i{i}", "view": "PA", "path": str(path)}
        )
    return rows


def labels() -> list[dict[str, Any]]:
    """Three labels a sample."""
    rows = []
    for i in range(STAYS):
        for task, value in [("death", i % 2), ("destination", i % 3), ("los", 2.5)]:
            rows.append({"sample_id": f"s{i}", "task": task, "value": float(value)})
    return rows


def embeddings() -> list[dict[str, Any]]:
    """Two vectors a sample; those of a modality are of one length."""
    return [
        {"sample_id": f"s{i}", "modality": modality, "vector": [float(i)] * width}
        for i in range(STAYS)
        for modality, width in [("vision", 3), ("language", 2)]
    ]


def good(table: str, folder: Path) -> list[dict[str, Any]]:
    """The good rows of a table."""
    if table == "images":
        return images(folder)
    tables = {
        "samples": samples,
        "events": events,
        "codes": codes,
        "notes": notes,
        "labels": labels,
        "embeddings": embeddings,
    }
    return tables[table]()


def frame(table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows as ingestion writes them, all from one file unless they say otherwise."""
    schema = {**load_contract(table).columns, **PROVENANCE}
    whole = [
        {"source_file": f"{table}.csv", "source_row": i, "parse_errors": None} | row
        for i, row in enumerate(rows, 1)
    ]
    return pl.DataFrame(whole, schema=schema)


class Hospital:
    """Good samples, split, in a folder; tables are split against them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = folder / "samples.parquet"
        self.split("samples", samples())

    def split(self, table: str, rows: list[dict[str, Any]] | pl.DataFrame) -> SplitResult:
        """Split these rows; the results lie in the folder."""
        ingested = self.folder / f"ingested_{table}.parquet"
        (rows if isinstance(rows, pl.DataFrame) else frame(table, rows)).write_parquet(ingested)
        return split_rows(
            table,
            ingested,
            self.folder / f"{table}.parquet",
            self.folder / f"quarantine_{table}.parquet",
            samples=None if table == "samples" else self.samples,
            quarantined_samples=None
            if table == "samples"
            else self.folder / "quarantine_samples.parquet",
            tasks=TASKS,
        )

    def valid(self, table: str) -> pl.DataFrame:
        """What was kept."""
        return pl.read_parquet(self.folder / f"{table}.parquet")

    def quarantine(self, table: str) -> pl.DataFrame:
        """What was not."""
        return pl.read_parquet(self.folder / f"quarantine_{table}.parquet")


def _timed(stay: int, time: datetime, available: datetime) -> dict[str, Any]:
    return {"stay_id": f"s{stay}", "time": time, "available_time": available}


# Each kind of wrong row: table, what differs from the table's first good row, and the rule that
# must name it.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("samples", {"sample_id": None}, "missing_sample_id"),
    ("samples", {"sample_id": "x" * 129}, "malformed_sample_id"),
    ("samples", {"sample_id": "x", "stay_id": ""}, "malformed_stay_id"),
    ("samples", {"sample_id": "x", "subject_id": "Ren\ufffd"}, "malformed_subject_id"),
    (
        "samples",
        {"sample_id": "x", "admit_time": None, "parse_errors": "admit_time: not a date"},
        "unreadable_field",
    ),
    ("samples", {"sample_id": "x", "admit_time": None}, "missing_admit_time"),
    (
        "samples",
        {"sample_id": "x", "admit_time": datetime(1492, 1, 1)},
        "implausible_admission_year",
    ),
    ("samples", {"sample_id": "x", "discharge_time": hours(-1)}, "discharge_before_admission"),
    ("samples", {"sample_id": "x", "prediction_time": hours(-1)}, "prediction_before_admission"),
    ("samples", {"sample_id": "x", "discharge_time": hours(20)}, "prediction_after_discharge"),
    ("samples", {"sample_id": "x", "split": 4}, "unknown_split"),
    ("samples", {"sample_id": "x", "split": 3}, "subject_in_two_splits"),
    ("samples", {"sample_id": "x", "age": -1.0}, "implausible_age"),
    ("samples", {"sample_id": "x", "age": 200.0}, "implausible_age"),
    ("samples", {"sample_id": "x", "age": float("inf")}, "implausible_age"),
    ("samples", {"sample_id": "x", "sex": "F\x00"}, "malformed_sex"),
    ("samples", {}, "duplicate_key"),
    ("events", {"stay_id": "nobody"}, "unknown_stay"),
    ("events", {"value": None, "parse_errors": "value: not a number"}, "unreadable_field"),
    ("events", {"value": None}, "missing_value"),
    ("events", {"value": float("nan")}, "missing_value"),
    ("events", {"unit": None}, "missing_unit"),
    ("events", {"unit": "furlong"}, "unknown_unit"),
    ("events", {"code": "shoe_size"}, "unknown_code"),
    ("events", {"value": -5.0}, "below_plausible_range"),
    ("events", {"value": 9999.0}, "above_plausible_range"),
    ("events", {"value": float("inf")}, "above_plausible_range"),
    ("events", {"time": hours(-49), "available_time": hours(-48)}, "taken_before_admission"),
    ("events", {"time": hours(72 + 49), "available_time": hours(130)}, "taken_after_discharge"),
    ("events", {"available_time": hours(0)}, "known_before_taken"),
    ("events", {}, "duplicate_key"),
    ("codes", {"stay_id": "nobody"}, "unknown_stay"),
    ("codes", {"code": None}, "missing_code"),
    ("codes", {"kind": "a\nb"}, "malformed_kind"),
    ("codes", {"code": "x" * 129}, "malformed_code"),
    ("codes", {"value": float("inf")}, "infinite_value"),
    ("codes", {"time": datetime(1999, 1, 1)}, "before_a_lifetime"),
    ("codes", {"time": hours(72 + 49), "available_time": hours(130)}, "taken_after_discharge"),
    ("codes", {"available_time": hours(0)}, "known_before_taken"),
    ("notes", {"note_id": "x", "text": " \n"}, "empty_text"),
    ("notes", {"note_id": "x", "text": None}, "missing_text"),
    ("notes", {"note_id": "x", "text": "a" * 1_000_001}, "overlong_text"),
    ("notes", {"note_id": "x", "text": "Temp\ufffdrature 38 \ufffdC"}, "broken_characters"),
    ("notes", {"note_id": "x", "kind": "a\nb"}, "malformed_kind"),
    ("notes", {"note_id": "x", "time": None}, "missing_time"),
    ("notes", {"text": "another text under the same key"}, "duplicate_key"),
    ("images", {"image_id": "x", "path": "/nowhere/x.jpg"}, "no_image_file"),
    ("images", {"image_id": "x", "path": "empty.jpg"}, "empty_image_file"),
    ("images", {"image_id": "x", "path": "."}, "no_image_file"),
    ("images", {"image_id": "x", "path": "a\x00b"}, "no_image_file"),
    ("labels", {"sample_id": "nobody"}, "unknown_sample"),
    ("labels", {"sample_id": "s1", "task": "fate"}, "unknown_task"),
    ("labels", {"task": "phenotype", "value": None}, "missing_value"),
    ("labels", {"task": "death", "value": 0.5}, "not_a_class"),
    ("labels", {"task": "death", "value": 2.0}, "class_beyond_last"),
    ("labels", {"task": "destination", "value": 3.0}, "class_beyond_last"),
    ("labels", {"task": "destination", "value": -1.0}, "class_below_zero"),
    ("labels", {"task": "los", "value": float("-inf")}, "infinite_label"),
    ("labels", {"value": 1.0}, "duplicate_key"),
    ("embeddings", {"sample_id": "nobody"}, "unknown_sample"),
    ("embeddings", {"modality": "smell"}, "unknown_modality"),
    ("embeddings", {"modality": "tabular", "vector": None}, "missing_vector"),
    ("embeddings", {"modality": "tabular", "vector": []}, "empty_vector"),
    ("embeddings", {"modality": "tabular", "vector": [0.0] * 100_001}, "overlong_vector"),
    ("embeddings", {"modality": "timeseries", "vector": [1.0, float("inf")]}, "infinite_vector"),
    ("embeddings", {"modality": "timeseries", "vector": [1.0, float("nan")]}, "infinite_vector"),
    ("embeddings", {"vector": [0.0, 0.0]}, "another_length"),
    ("embeddings", {"vector": [1.0, 2.0, 3.0]}, "duplicate_key"),
]


def wrong_row(table: str, change: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The table's first good row with this change."""
    row = good(table, folder)[0] | change
    if change.get("path") == "empty.jpg":
        (folder / "empty.jpg").touch()
        row["path"] = str(folder / "empty.jpg")
    return row
