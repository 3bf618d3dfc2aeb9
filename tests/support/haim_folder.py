"""A made-up file in the layout of HAIM-MIMIC-MM's embeddings: its columns in their order, its
duplicates, its tail.
"""

from __future__ import annotations

import csv
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np

# In the file's order; read from HAIM's code, which writes it.
_WIDTHS = {
    "de_": 6,
    "vd_": 1024,
    "vp_": 18,
    "vmd_": 1024,
    "vmp_": 18,
    "ts_ce_": 99,
    "ts_le_": 242,
    "ts_pe_": 110,
    "n_ecg_": 768,
    "n_ech_": 768,
    "n_rad_": 768,
}
_CHEXPERT = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
HEADER = [
    "haim_id",
    "img_id",
    "img_charttime",
    "img_deltacharttime",
    "discharge_location",
    "img_length_of_stay",
    "death_status",
    *(f"{prefix}{i}" for prefix, width in _WIDTHS.items() for i in range(width)),
    "split",
    *_CHEXPERT,
    "PerformedProcedureStepDescription",
    "ViewPosition",
]
ADMITTED = dt.datetime(2180, 5, 1, 8)
Row = dict[str, Any]


def row(stay: int, image: int = 0, seed: int | None = None, **others: Any) -> Row:
    """An image of an ICU stay, taken 24 hours after the admission and ten more for each image
    before it.
    """
    taken = 24 + 10 * image
    numbers = np.random.default_rng(stay * 1000 + image if seed is None else seed).normal(
        size=sum(_WIDTHS.values())
    )
    values = dict(zip(HEADER[7:], numbers.round(4).tolist(), strict=False))
    values |= {"de_0": 40 + stay % 50, "de_1": stay % 2, "split": "train", "ViewPosition": "AP"}
    values |= {name: ["1.0", "0.0", "-1.0", ""][(stay + i) % 4] for i, name in enumerate(_CHEXPERT)}
    return values | {
        "haim_id": stay,
        "img_id": f"img-{stay}-{image}",
        "img_charttime": str(ADMITTED + dt.timedelta(hours=taken)),
        "img_deltacharttime": float(taken),
        "discharge_location": "HOME",
        "img_length_of_stay": 30.5 if stay % 3 else 100.0,
        "death_status": int(stay % 5 == 0),
        **others,
    }


def write(folder: Path, rows: list[Row], tail: str = "", subjects: list[Any] | None = None) -> Path:
    """Write the file, a text after its last row, and HAIM's table of keys where subjects (by
    haim_id) are given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cxr_ic_fusion_1103.csv").open("w", newline="") as to:
        writer = csv.DictWriter(to, HEADER)
        writer.writeheader()
        writer.writerows(rows)
        to.write(tail)
    if subjects is not None:
        lines = [f"{1000 + i},{500 + i},{subject}" for i, subject in enumerate(subjects)]
        (folder / "haim_mimiciv_key_ids.csv").write_text(
            "\n".join(["hadm_id,stay_id,subject_id", *lines, ""])
        )
    return folder
