"""What tests of several embedders share."""

from __future__ import annotations

import numpy as np
import pytest
from modality_items import (
    encoded,
    film,
)

from m3h_core.embedders import VisionEmbedder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def images() -> list[list[tuple[float, str, bytes]]]:
    views = ["PA", "AP", "lateral", "LL", "odd", ""]

    def of_sample(i: int) -> list[tuple[float, str, bytes]]:
        return [
            (-float(k), views[i % 6], encoded(film(i + 100 * k, blob=i % 2 == 0)))
            for k in range(1 + i % 2)
        ]

    return [of_sample(i) for i in range(60)]


@pytest.fixture(scope="module")
def vision(images) -> VisionEmbedder:
    return VisionEmbedder(image_size=64, batch_size=16).fit(images)
