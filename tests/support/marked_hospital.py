"""A small hospital in the tables' format with a mark in every column, and who is looked for
where.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tables_folder
from PIL import Image
from safetensors.numpy import load_file
from tables_folder import Tables

# What is planted, in a patient of its own each: (table, column): value. Numbers lie amid the
# others.
MARKS: dict[tuple[str, str], Any] = {
    ("samples", "stay_id"): "stayqzmark",
    ("samples", "subject_id"): "subjectqzmark",
    ("samples", "admit_time"): "2024-01-13 03:17:23",
    ("samples", "discharge_time"): "2024-01-18 21:43:57",
    ("samples", "age"): 61.728394,
    ("samples", "sex"): "sexqzmark",
    ("samples", "ward"): "wardqzmark",
    ("events", "time"): "2024-01-14 11:47:53",
    ("events", "available_time"): "2024-01-14 13:37:59",
    ("events", "code"): "codeqzmark",
    ("events", "value"): 91.482937,
    ("events", "unit"): "unitqzmark",
    ("codes", "time"): "2024-01-14 08:13:07",
    ("codes", "kind"): "setqzmark",
    ("codes", "code"): "drug/insulinqzmark",
    ("codes", "value"): 17.395128,
    ("notes", "note_id"): "noteqzmark",
    ("notes", "time"): "2024-01-14 09:51:37",
    ("notes", "kind"): "kindqzmark",
    ("notes", "text"): "Chest clear, textqzmark seen.",
    ("images", "image_id"): "imageqzmark",
    ("images", "time"): "2024-01-14 07:29:41",
    ("images", "view"): "viewqzmark",
    ("images", "path"): "images/pathqzmark.png",
    ("labels", "value"): 6.391847,
}
# Outside snapshots and quarantine, what is there to hold a row a patient: their ids, and in one the
# known labels.
ROWS_OF_PATIENTS = {
    "latest/predictions.parquet": {"stay_id", "value"},
    "latest/scores.parquet": {"stay_id", "subject_id"},
    "scores.duckdb": {"stay_id", "subject_id"},
}


def write(root: Path, stays: int, first: int = 1, shift: float = 0.0) -> Path:
    """Stays number 1 to ``stays``; those from ``first`` on are older by ``shift`` years and every
    other has no note.
    """
    tables = tables_folder.hospital(stays)
    draw = np.random.default_rng(0)
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i, sample in enumerate(tables["samples"], start=1):
        # The first have the marks, and are learned from.
        sample["split"] = 0 if i <= 60 else [0, 0, 0, 0, 1, 2, 2, 3, 3, 3][i % 10]
        # Neither says what the labels are.
        sample["sex"] = "FM"[i // 2 % 2]
        sample["ward"] = ["surgery", "medicine"][i // 3 % 2]
        tables["codes"].append(
            {
                "stay_id": sample["stay_id"],
                "time": sample["admit_time"],
                "kind": "drug_given",
                "code": ["insulin/glargine", "insulin/aspart", "heparin"][i // 4 % 3],
                "value": float(i % 30),
            }
        )
        sample["age"] = round(40 + float(draw.uniform(0, 40)) + (shift if i >= first else 0), 1)
        if i % 2 == 0:
            name = f"images/{i}.png"
            pixels = draw.integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name)
            time = sample["admit_time"].replace("08:00:00", "10:00:00")
            tables["images"].append(tables_folder.image(sample["stay_id"], f"i{i}", time, name))
    for label in tables["labels"]:
        if label["task"] == "los":
            label["value"] = round(2 + float(draw.uniform(0, 9)), 2)
    if shift:
        numbers = {f"s{i}" for i in range(first, stays + 1, 2)}
        tables["notes"] = [note for note in tables["notes"] if note["stay_id"] not in numbers]
    _plant(root, tables)
    return tables_folder.write(root, tables)


def _plant(root: Path, tables: Tables) -> None:
    """Each mark into a row of a patient of its own, from the third stay on; a stay's id wherever it
    stands.
    """
    for at, ((table, column), value) in enumerate(MARKS.items(), start=3):
        if (table, column) == ("samples", "stay_id"):
            for rows in tables.values():
                for row in rows:
                    for key in ("stay_id", "sample_id"):
                        if row.get(key) == f"s{at}":
                            row[key] = value
            continue
        stay = f"s{at if table != 'images' else 2 * at}"
        own_rows = [
            row for row in tables[table] if stay in (row.get("stay_id"), row.get("sample_id"))
        ]
        row = next(row for row in own_rows if table != "labels" or row["task"] == "los")
        if (table, column) == ("events", "value"):  # of a signal that nobody else has
            row = next(row for row in tables["events"] if row["code"] == MARKS["events", "code"])
        if column == "path":
            (root / row["path"]).rename(root / value)
        row[column] = value


def find_marks(out: Path, output: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(where, mark) of every mark that stands in a file outside snapshots and quarantine, or in
    the ``output`` of commands.
    """
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if file.is_file() and not name.startswith(("snapshots/", "latest/quarantine/")):
            yield from ((name, mark) for mark in _in(_content(file)))
    yield from (("the terminal", mark) for mark in _in([output.encode()]))


def _in(parts: list[bytes]) -> Iterator[tuple[str, str]]:
    for mark, value in MARKS.items():
        if any(shape in part for part in parts for shape in _shapes(mark, value)):
            yield mark


def _shapes(mark: tuple[str, str], value: Any) -> list[bytes]:
    """How a value may be written: as text, as a time of the day in UTC or Berlin, as a binary
    number.
    """
    if isinstance(value, float):
        return [str(value).encode(), struct.pack("<d", value)]
    if mark[1].endswith("time"):
        hour = int(value[11:13])
        return [f"{h:02}{value[13:]}".encode() for h in (hour, hour - 1)]
    return [value.split()[-2].encode() if " " in value else Path(value).stem.encode()]


def _content(file: Path) -> list[bytes]:
    """The bytes of a file; of Parquet and safetensors also what they hold, single-precision numbers
    widened.
    """
    if file.suffix == ".parquet":
        return [file.read_bytes(), pl.read_parquet(file).write_json().encode()]
    if file.suffix == ".safetensors":
        arrays = [a for a in load_file(file).values() if a.dtype.kind == "f"]
        singles = {float(np.float32(v)): v for v in MARKS.values() if isinstance(v, float)}
        near = [
            v
            for a in arrays
            for single, v in singles.items()
            if (a.astype(np.float32) == single).any()
        ]
        return [file.read_bytes(), *(struct.pack("<d", v) for v in near)]
    return [file.read_bytes()]
