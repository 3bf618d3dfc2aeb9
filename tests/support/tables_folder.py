"""A small hospital of its own making in the format of the tables source, for tests to change and to
write.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import polars as pl
import yaml

Tables = dict[str, list[dict[str, Any]]]

COHORT: dict[str, Any] = {
    "timezone": "Europe/Berlin",
    "features": ["age", "sex", "ward"],
    "audit": ["sex"],
    "tasks": [
        {
            "name": "death",
            "problem": "binary",
            "department": "hospital",
            "definition": "died in hospital",
        },
        {"name": "los", "problem": "regression", "department": "hospital", "unit": "days"},
        {"name": "destination", "problem": "multiclass", "classes": ["home", "facility", "died"]},
        {"name": "phenotype", "problem": "clustering"},
    ],
}


def hospital(stays: int = 4) -> Tables:
    """Stays of as many patients; s1 is admitted on 2024-01-10 at 08:00 in Berlin, 07:00 UTC, and
    lasts five days.
    """
    tables: Tables = {
        "samples": [],
        "events": [],
        "codes": [],
        "notes": [],
        "images": [],
        "labels": [],
    }
    for i in range(1, stays + 1):
        stay = f"s{i}"
        day = 10 + i % 10
        tables["samples"].append(
            {
                "stay_id": stay,
                "subject_id": f"p{i}",
                "admit_time": f"2024-01-{day} 08:00:00",
                "discharge_time": f"2024-01-{day + 5} 08:00:00",
                "age": 40 + i % 50,
                "sex": "FM"[i % 2],
                "ward": "surgery" if i % 3 else "medicine",
            }
        )
        tables["events"] += [
            event(stay, f"2024-01-{day} 09:00:00", "heart_rate", 80 + i % 40, "bpm"),
            event(
                stay,
                f"2024-01-{day} 10:00:00",
                "glucose",
                5.5 + i % 4,
                "mmol/L",
                f"2024-01-{day} 11:30:00",
            ),
            event(stay, f"2024-01-{day} 10:00:00", "lactate", 1 + i % 5, "mmol/L"),
        ]
        tables["notes"].append(
            note(
                stay, f"n{i}", f"2024-01-{day} 12:00:00", "radiology", f"Chest clear. Case {i % 7}."
            )
        )
        tables["labels"] += [
            {"sample_id": stay, "task": "death", "value": i % 2},
            {"sample_id": stay, "task": "los", "value": 5},
            {
                "sample_id": stay,
                "task": "destination",
                "value": ["home", "facility", "died"][i % 3],
            },
        ]
    return tables


def event(stay, time, code, value, unit, available=None) -> dict[str, Any]:
    return {
        "stay_id": stay,
        "time": time,
        "available_time": available,
        "code": code,
        "value": value,
        "unit": unit,
    }


def note(stay, key, time, kind, text, available=None) -> dict[str, Any]:
    return {
        "stay_id": stay,
        "note_id": key,
        "time": time,
        "available_time": available,
        "kind": kind,
        "text": text,
    }


def image(stay, key, time, path, available=None, view="PA") -> dict[str, Any]:
    return {
        "stay_id": stay,
        "image_id": key,
        "time": time,
        "available_time": available,
        "view": view,
        "path": path,
    }


def write(
    root: Path, tables: Tables, cohort: dict[str, Any] | str | None = None, suffix: str = ".csv"
) -> Path:
    """Write the tables that have rows, and cohort.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    text = cohort if isinstance(cohort, str) else yaml.safe_dump(cohort or COHORT, sort_keys=False)
    (root / "cohort.yaml").write_text(text)
    for name, rows in tables.items():
        if not rows:
            continue
        file = root / f"{name}{suffix}"
        if suffix == ".parquet":
            pl.DataFrame(rows, infer_schema_length=None, strict=False).write_parquet(file)
            continue
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        file.write_bytes(
            gzip.compress(out.getvalue().encode(), mtime=0)
            if suffix.endswith(".gz")
            else out.getvalue().encode()
        )
    return root
