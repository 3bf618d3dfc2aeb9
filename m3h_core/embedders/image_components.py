"""What is fitted to a hospital's images, without labels: whitened principal components of what the
network says of an image, and of a thumbnail.

The network's pooled output has over a thousand columns, and says little about where something is
or how large; 16 x 16 pixels say that. Whitened components of each, side by side, are few enough for
a few hundred images (docs/decisions/0041-pretrained-vision.md).

Legend: n images, C columns of the network, T = 256 pixels of a thumbnail, K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_SIDE = 16
_PIXELS = _SIDE**2
_PARTS = ("network", "thumbnail")
# Components of a part: at most so many, and at most one for 15 fitted images.
_COMPONENTS = 64
_IMAGES_A_COMPONENT = 15
# Components have variance 1 in the fitted images; a strange image must not shout.
_LIMIT = 8.0


def shrink(pictures: torch.Tensor) -> torch.Tensor:
    """Thumbnails [B, T] in gray of pictures [B, 3, S, S]."""
    import torch

    gray = pictures.mean(1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(gray, _SIDE).flatten(1)


class ImageComponents:
    """Fitted on at least one image; ``width`` is K, at most 128 and less than twice the number of
    fitted images.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], explained: Mapping[str, float]) -> None:
        self.arrays = dict(arrays)
        # The share of variance that each part's components explain.
        self.explained = dict(explained)
        self.width = sum(len(arrays[f"components/{part}"]) for part in _PARTS)

    @classmethod
    def fit(cls, raw: np.ndarray) -> ImageComponents:
        """Learn from rows [n, C + T]: the network's output, then the thumbnail."""
        from sklearn.decomposition import PCA

        arrays: dict[str, np.ndarray] = {}
        explained = {}
        for part, columns in _split(raw.astype(np.float64)).items():
            n = len(columns)
            k = min(_COMPONENTS, max(n // _IMAGES_A_COMPONENT, 1), n - 1)
            arrays[f"mean/{part}"] = columns.mean(0)
            arrays[f"components/{part}"] = np.zeros((0, columns.shape[1]))
            explained[part] = 0.0
            varies = columns.std(0).max() > 1e-6
            if k < 1 or not varies:
                continue
            pca = PCA(k, svd_solver="randomized", random_state=0).fit(columns)
            real = pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]
            spread = np.sqrt(pca.explained_variance_[real])
            arrays[f"components/{part}"] = pca.components_[real] / spread[:, None]
            explained[part] = float(pca.explained_variance_ratio_[real].sum())
        return cls(arrays, explained)

    def transform(self, raw: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, K] of rows [n, C + T]."""
        projected = []
        for part, columns in _split(raw).items():
            components = self.arrays[f"components/{part}"]
            centred = columns.astype(np.float64) - self.arrays[f"mean/{part}"]
            # Row by row: a product of matrices rounds a row by its place among the others.
            products = [components @ row for row in centred]
            projected.append(np.reshape(products, (len(raw), len(components))))
        return np.concatenate(projected, axis=1).clip(-_LIMIT, _LIMIT).astype(np.float32)

    @property
    def report(self) -> dict[str, Any]:
        """Facts worth showing."""
        return {
            "components": self.width,
            "variance explained": {part: round(x, 3) for part, x in self.explained.items()},
        }


def _split(raw: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(_PARTS, (raw[:, :-_PIXELS], raw[:, -_PIXELS:]), strict=True))
