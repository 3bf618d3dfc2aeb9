"""What an image encoder without pretrained weights learns from the hospital's own images, without labels.

A network with random weights, averaged to one vector, says little. Training it without labels would need far more
images and time than a demo or a small hospital has (measured: twenty seconds of it made the vectors worse). What pays
off at once, and is done here: from each image are taken

- the mean and spread of every channel at each stage of the network,
- how much each third of the image by each third looks like each word of a dictionary of small patches, found among the
  training images by k-means (Coates, Lee & Ng 2011, "An analysis of single-layer networks"),
- a thumbnail,

and a whitened principal component analysis of the three together, fitted on the training images, gives the vector.

Legend: B images of a batch, n fitted images, C raw columns, K components, P pixels of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_THUMBNAIL, _PATCH_IMAGE, _PATCH, _STRIDE, _GRID, _WORDS = 16, 64, 6, 2, 3, 128
_COMPONENTS, _PATCHES = 192, 30_000
# Below this spread (of 1) a patch is flat: its noise is not blown up.
_FLAT = 0.03
_LIMIT = 8.0


class ImageAdaptation:
    """Fitted on images [n, 3, S, S] in 0..1 and the network's stage statistics of them; see the module's text.

    ``width`` is K, at most 192 and at most a quarter of the fitted images.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.width = arrays["components"].shape[1]

    @classmethod
    def fit(cls, pictures: torch.Tensor, stages: torch.Tensor, seed: int) -> ImageAdaptation:
        """Learn the dictionary and the components."""
        small = _shrink(pictures, _PATCH_IMAGE)
        arrays = _dictionary(small, seed) if len(small) else {}
        raw, block = _raw(pictures, stages, arrays)
        mean, spread = raw.mean(0) if len(raw) else np.zeros(raw.shape[1]), raw.std(0) if len(raw) else 0.0
        # Each of the three parts has the same say, however many columns it has.
        scale = np.where(spread > 1e-6, spread, np.inf) * np.sqrt(block)
        centred = (raw - mean) / scale
        # The Gram matrix: there are fewer images than columns.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(values)[::-1][: min(_COMPONENTS, len(raw) // 4)]
        order = order[values[order] > 1e-9 * max(values.max(initial=0.0), 1e-12)]
        components = centred.T @ vectors[:, order] / values[order] * np.sqrt(len(raw))
        # The sign of a component is arbitrary: fixed, so that it does not hang on the linear algebra library.
        components *= np.sign(components[np.abs(components).argmax(0), np.arange(len(order))])
        arrays |= {"offset": (mean / scale) @ components, "components": components / scale[:, None]}
        arrays["explained"] = np.array([values[order].sum() / max(values.sum(), 1e-12)])
        return cls({name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()})

    def transform(self, pictures: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [B, K]."""
        import torch

        raw, _ = _raw(pictures, stages, self.arrays)
        device = pictures.device
        components, offset = (torch.from_numpy(self.arrays[name]).to(device) for name in ("components", "offset"))
        return (torch.from_numpy(raw).float().to(device) @ components - offset).clamp(-_LIMIT, _LIMIT)

    @property
    def report(self) -> dict[str, Any]:
        """Facts worth showing."""
        words = len(self.arrays["words"]) if "words" in self.arrays else 0
        return {
            "patch dictionary": words,
            "components": self.width,
            "variance explained": round(float(self.arrays["explained"][0]), 3),
        }
