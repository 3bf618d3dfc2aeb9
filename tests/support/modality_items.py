"""Made-up items of each modality, for the embedders."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from m3h_core.embedders import EventSequences, LanguageEmbedder, TabularEmbedder, TimeseriesEmbedder


def columns(**values) -> dict[str, np.ndarray]:
    return {name: column(of_name) for name, of_name in values.items()}


def column(values: list) -> np.ndarray:
    is_text = any(isinstance(value, str) for value in values)
    return np.array(values, dtype=object if is_text else None)


def random_events(rng, n=40, codes=("a", "b", "c"), size=900) -> EventSequences:
    return EventSequences(
        sample=rng.integers(0, n, size),
        code=rng.choice(np.array(codes, dtype=object), size),
        hours=-np.round(rng.random(size) * 24, 2),
        # Few distinct values: plateaus and ties happen.
        value=rng.integers(0, 5, size).astype(float),
        n=n,
    )


# As tiny_bert knows them (tests/conftest.py).
WORDS = [a + b for a in "bcdfghklm" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]


def words(n: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def tiny(folder: Path, **options) -> LanguageEmbedder:
    return LanguageEmbedder(str(folder), max_tokens=32, overlap=8, **options)


def some_notes(n: int = 30) -> list[list[tuple[float, str]]]:
    def of_sample(i: int) -> list[tuple[float, str]]:
        return [(-float(k), words(5 + 7 * ((i + k) % 9), seed=i + 40 * k)) for k in range(i % 3)]

    return [of_sample(i) for i in range(n)]


def film(seed: int, size: int = 96, blob: bool = False, side: int = 0) -> np.ndarray:
    """A gray picture uint8: a body, here and there, narrow or wide, with a faint spot in it or
    none.
    """
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size + draw.normal(0, 0.05, (2, 1, 1))
    wide = draw.uniform(0.3, 0.45)
    grain = 0.02 * draw.normal(size=(size, size))
    picture = 0.5 * np.exp(-(((x - 0.5) / wide) ** 4) - ((y - 0.5) / 0.45) ** 4) + grain
    if blob:
        cx, cy = draw.uniform(0.35, 0.65, 2) + np.array([0.12 * side, 0])
        picture += 0.15 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.06**2)
    return (255 * np.clip(picture + 0.1, 0, 1)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind)
    return stream.getvalue()


def saved_bytes(embedder, folder: Path) -> dict[str, bytes]:
    embedder.save(folder)
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def feature(
    embedder: TabularEmbedder | TimeseriesEmbedder, vectors: np.ndarray, name: str
) -> list[float]:
    return vectors[:, embedder.feature_names.index(name)].tolist()
