"""Notes and images to embed, as long and as large as those of a hospital."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = re.split(
    " ",
    "patient reports pain in the chest on exertion no fever cough shortness of breath left lower "
    "lobe effusion heart size is normal there is a small opacity unchanged since prior study "
    "history of hypertension diabetes kidney disease on metoprolol lisinopril denies smoking "
    "drinks wine lives alone walks with cane knee replacement gout",
)


def notes(n: int, lengths: np.ndarray, seed: int = 0) -> list[list[tuple[float, str]]]:
    """One note a sample, of so many words each."""
    rng = np.random.default_rng(seed)
    return [
        [(-1.0, f"{seed} {i} " + " ".join(rng.choice(WORDS, size)))]
        for i, size in zip(range(n), lengths, strict=True)
    ]


def mixed(n: int, seed: int = 0) -> np.ndarray:
    """Lengths as hospitals have them: most notes short, some very long."""
    return np.clip(np.random.default_rng(seed).lognormal(4.3, 0.9, n), 8, 2000).astype(int)


def image_files(
    n: int, folder: Path, size: int = 448, prefix: str = ""
) -> list[list[tuple[float, str, str]]]:
    """One JPEG a sample; they differ by a few bytes after the picture, so that drawing them takes
    no time.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    pictures = []
    for _ in range(20):
        cx, cy = rng.uniform(0.3, 0.7, 2)
        gray = (
            120 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.1)
            + 60
            + 12 * rng.normal(size=x.shape)
        )
        stream = io.BytesIO()
        Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(n):
        file = folder / f"{prefix}{i}.jpg"
        file.write_bytes(pictures[i % 20] + f"{prefix}{i}".encode())
        os.utime(file, (1e9, 1e9))
        files.append([(-1.0, "PA", str(file))])
    return files
