"""Made-up as-of inputs of the four modalities, for the embedding job."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

N = 60


def write_inputs(folder: Path, stranger: float = 0.0) -> Path:
    """As-of inputs of N samples, two a patient; with ``stranger`` what lies outside the training
    split is another.
    """
    folder.mkdir(parents=True)
    ids = [f"s{i:03d}" for i in range(N)]
    split = [0 if i % 4 < 2 else 1 + i % 3 for i in range(N)]
    rng = np.random.default_rng(0)
    odd = np.array([stranger if s else 0.0 for s in split])
    samples = pl.DataFrame(
        {"sample_id": ids, "subject_id": [f"p{i // 2}" for i in range(N)], "split": split}
    )
    samples.write_parquet(folder / "samples.parquet")
    tabular = {
        "age": 50 + 10 * rng.normal(size=N) + 1e3 * odd,
        "sex": ["X" if o else "FM"[i % 2] for i, o in enumerate(odd)],
    }
    samples.drop("subject_id").with_columns(
        **{k: pl.Series(v) for k, v in tabular.items()}
    ).write_parquet(folder / "tabular.parquet")
    rows = np.repeat(np.arange(N), 6)
    value = rng.normal(size=len(rows)) + 1e3 * odd[rows]
    code = [f"{'odd' if odd[i] else 'signal'}_{k % 3}" for k, i in enumerate(rows)]
    hours = -rng.integers(0, 24, len(rows)).astype(float)
    events = pl.DataFrame(
        {"sample_id": [ids[i] for i in rows], "code": code, "hours": hours, "value": value}
    )
    events.write_parquet(folder / "timeseries.parquet", row_group_size=50)
    # The last samples have no note; one note is empty.
    texts = [f"{'ba be' if odd[i] else 'go'} {'ku la mo ' * (i % 7)} {i}" for i in range(N - 5)]
    texts[3] = "\n"
    notes = {
        "sample_id": ids[: N - 5],
        "hours": [-1.0] * (N - 5),
        "note_id": ids[: N - 5],
        "kind": ["x"] * (N - 5),
        "text": texts,
    }
    pl.DataFrame(notes).write_parquet(folder / "language.parquet", row_group_size=16)
    (folder / "images").mkdir()
    paths = []
    for i in range(0, N, 2):
        draw = np.random.default_rng([i, int(odd[i])])
        stream = io.BytesIO()
        Image.fromarray((255 * draw.random((8, 8))).astype(np.uint8)).resize((64, 64)).save(
            stream, "PNG"
        )
        paths.append(folder / "images" / f"{i}.png")
        paths[-1].write_bytes(b"" if i == 8 else stream.getvalue())
        os.utime(paths[-1], (1e9, 1e9))
    images = {
        "sample_id": ids[::2],
        "hours": [-1.0] * len(paths),
        "image_id": ids[::2],
        "view": ["PA"] * len(paths),
        "path": list(map(str, paths)),
    }
    pl.DataFrame(images).write_parquet(folder / "vision.parquet")
    return folder
