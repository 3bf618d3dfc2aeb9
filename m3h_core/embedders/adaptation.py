"""What an image encoder without pretrained weights learns from the hospital's own images, without
labels.

A network with random weights, averaged to one vector, says little. Training it without labels would
need far more images and time than a demo or a small hospital has (measured: twenty seconds of it
made the vectors worse). What pays off at once, and is done here: from each image are taken

- the mean and spread of every channel at each stage of the network,
- how much each of 3 x 3 parts of the image looks like each word of a dictionary of small patches,
  found among the training images by k-means (Coates, Lee & Ng 2011, "An analysis of single-layer
  networks"),
- a thumbnail,

and the whitened principal components of each, fitted on the training images, side by side are the
vector. Most of its worth comes from the last two; with pretrained weights none of this is used.

Legend: B images, S side of an image, C raw columns, K components, P pixels of a patch, W words.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from m3h_core.embedders.hardware import compute_device

if TYPE_CHECKING:
    import torch

_THUMBNAIL = 16
SIDE = 64
# Counts the ways in which vectors were computed: those of another are not taken from a cache.
VERSION = b"2"
_PATCH = 6
_STRIDE = 2
_GRID = 3
_WORDS = 128
_PATCHES = 30_000
# Components of the three parts: at most so many, and at most a fifth of the fitted images.
_COMPONENTS = (32, 96, 96)
# A patch that varies less than this (the range is 1) is flat: its noise is not blown up.
_FLAT = 0.03
# Vectors have variance 1 in the fitted images; a strange image must not shout.
_LIMIT = 8.0


class ImageAdaptation:
    """Fitted on at least one image; ``width`` is K, at most 224 and less than the number of fitted
    images.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.width = sum(arrays[f"components/{i}"].shape[1] for i in range(len(_COMPONENTS)))

    @classmethod
    def fit(cls, small: torch.Tensor, stages: torch.Tensor, seed: int) -> ImageAdaptation:
        """Learn from images as :func:`shrink` gives them, and the network's stage statistics of
        them [B, any].
        """
        import torch

        words = _dictionary(small, seed)
        # In blocks: the patches of all images at once would fill the memory.
        blocks = [
            _parts(*block, words) for block in zip(small.split(64), stages.split(64), strict=True)
        ]
        arrays: dict[str, np.ndarray] = words
        for i, at_most in enumerate(_COMPONENTS):
            part = torch.cat([block[i] for block in blocks]).cpu().double()
            arrays |= _components(i, part, min(at_most, max(len(part) // 5, 1)))
        return cls({name: array.astype(np.float32) for name, array in arrays.items()})

    def transform(self, small: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [B, K]."""
        import torch

        projections = []
        for i, part in enumerate(_parts(small, stages, self.arrays)):
            components, offset = (
                torch.from_numpy(self.arrays[f"{name}/{i}"]).to(part.device)
                for name in ("components", "offset")
            )
            # A sum for each row: a matrix product rounds a row by its place in the batch.
            projections.append((part[:, :, None] * components).sum(1) - offset)
        return torch.cat(projections, dim=1).clamp(-_LIMIT, _LIMIT)

    @classmethod
    def load(cls, file: Path) -> ImageAdaptation:
        """Read what :meth:`save` wrote."""
        return cls(load_file(file))

    def save(self, file: Path) -> None:
        """Write one safetensors file; it is there in full or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        save_file(self.arrays, partial)
        os.replace(partial, file)

    @classmethod
    def fit_rows(cls, raw: np.ndarray, seed: int) -> ImageAdaptation:
        """:meth:`fit` on rows [B, any]: the stage statistics, then the small image."""
        return cls.fit(*_split(raw), seed)

    def transform_rows(self, raw: np.ndarray, batch_size: int) -> np.ndarray:
        """:meth:`transform` of rows [n, any], always a whole batch: how many others come along must
        not matter.
        """
        import torch

        vectors = np.empty((len(raw), self.width), dtype=np.float32)
        batch = np.zeros((batch_size, raw.shape[1]), dtype=np.float32)
        with torch.inference_mode():
            for low in range(0, len(raw), batch_size):
                part = raw[low : low + batch_size]
                batch[: len(part)] = part
                vectors[low : low + len(part)] = self.transform(*_split(batch)).cpu()[: len(part)]
        return vectors

    @property
    def report(self) -> dict[str, Any]:
        """Facts worth showing."""
        return {
            "patch dictionary": len(self.arrays["words"]),
            "components": self.width,
            "variance explained": [
                round(float(self.arrays[f"explained/{i}"][0]), 3) for i in range(len(_COMPONENTS))
            ],
        }


def _split(raw: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in small [n, 1, side, side] and stage statistics [n, any], of rows that hold both."""
    import torch

    rows = torch.from_numpy(raw).to(compute_device())
    return rows[:, -(SIDE**2) :].reshape(-1, 1, SIDE, SIDE), rows[:, : -(SIDE**2)]


def _components(i: int, raw: torch.Tensor, at_most: int) -> dict[str, np.ndarray]:
    """Whitened principal components of the scaled columns of ``raw`` [B, C]: vectors are raw @
    components - offset.
    """
    import torch

    mean = raw.mean(0)
    spread = raw.std(0, correction=0)
    scale = torch.where(spread > 1e-6, spread, torch.inf)
    scaled = (raw - mean) / scale
    # By the smaller of two products with the same values: of images [B, B] or of columns [C, C].
    few = len(scaled) < scaled.shape[1]
    values, vectors = torch.linalg.eigh(scaled @ scaled.T if few else scaled.T @ scaled)
    values = values.flip(0)[:at_most]
    vectors = vectors.flip(1)[:, :at_most]
    real = values > 1e-9
    spreads = values[real].sqrt()
    axes = scaled.T @ vectors[:, real] / spreads if few else vectors[:, real]
    components = axes / spreads * len(raw) ** 0.5
    # A component's sign is arbitrary: fixed, so that it does not depend on the linear algebra
    # library.
    largest = components.abs().argmax(0, keepdim=True)
    components = components * components.gather(0, largest).sign() / scale[:, None]
    explained = values[real].sum() / scaled.square().sum().clamp(min=1e-9)
    arrays = {
        "components": components,
        "offset": mean @ components,
        "explained": explained.reshape(1),
    }
    return {f"{name}/{i}": value.numpy() for name, value in arrays.items()}


def shrink(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, S, S] in gray and small, [B, 1, 64, 64]."""
    import torch

    return torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), SIDE)


def _patches(small: torch.Tensor) -> torch.Tensor:
    """All patches [B, places, P] of images [B, 1, side, side], each with mean 0 and spread 1 (less
    if flat).
    """
    import torch

    patches = torch.nn.functional.unfold(small, _PATCH, stride=_STRIDE).transpose(1, 2)
    patches = patches - patches.mean(2, keepdim=True)
    return patches / (patches.square().mean(2, keepdim=True) + _FLAT**2).sqrt()


def _dictionary(small: torch.Tensor, seed: int) -> dict[str, np.ndarray]:
    """Whitening [P, P], its centre [P] and words [W, P], from a sample of the patches."""
    import torch

    # On the CPU and in its own random numbers: the same words everywhere.
    draw = torch.Generator().manual_seed(seed)
    each = -(-_PATCHES // len(small))

    def some(patches: torch.Tensor) -> torch.Tensor:
        return patches[torch.randperm(len(patches), generator=draw)[:each]]

    # Image by image: all patches of all of them would fill the memory.
    points = torch.cat([some(_patches(one[None])[0].cpu()) for one in small])
    centre = points.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((points - centre).T))
    whitening = vectors @ torch.diag((values.clamp(min=0) + 0.01) ** -0.5) @ vectors.T
    words = _k_means((points - centre) @ whitening, min(_WORDS, len(points)), draw)
    return {"whitening": whitening.numpy(), "centre": centre.numpy(), "words": words.numpy()}


def _k_means(points: torch.Tensor, k: int, draw: torch.Generator) -> torch.Tensor:
    """Centres [k, P] of points [n, P]; scikit-learn's would cost more to import than this takes to
    run.
    """
    import torch

    centres = points[torch.randperm(len(points), generator=draw)[:k]]
    for _ in range(20):
        nearest = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        count = torch.bincount(nearest, minlength=k)[:, None]
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres


def _parts(
    small: torch.Tensor, stages: torch.Tensor, arrays: dict[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stage statistics, dictionary [B, 9 W] and thumbnail [B, 256]."""
    import torch

    whitening, centre, words = (
        torch.from_numpy(arrays[name]).float().to(small.device)
        for name in ("whitening", "centre", "words")
    )
    distance = torch.cdist((_patches(small) - centre) @ whitening, words[None])
    # How much nearer than the average word: most are 0.
    alike = (distance.mean(2, keepdim=True) - distance).relu().transpose(1, 2)
    side = int(alike.shape[2] ** 0.5)
    pool = torch.nn.functional.adaptive_avg_pool2d
    return (
        stages,
        pool(alike.unflatten(2, (side, side)), _GRID).flatten(1),
        pool(small, _THUMBNAIL).flatten(1),
    )
