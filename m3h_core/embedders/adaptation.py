"""What an image encoder without pretrained weights learns from the hospital's own images, without labels.

A network with random weights, averaged to one vector, says little. Training it without labels would need far more
images and time than a demo or a small hospital has (measured: twenty seconds of it made the vectors worse). What pays
off at once, and is done here: from each image are taken

- the mean and spread of every channel at each stage of the network,
- how much each of 3 x 3 parts of the image looks like each word of a dictionary of small patches, found among the
  training images by k-means (Coates, Lee & Ng 2011, "An analysis of single-layer networks"),
- a thumbnail,

and a whitened principal component analysis of the three together, fitted on the training images, gives the vector.

Legend: B images, S side of an image, C raw columns, K components, P pixels of a patch, W words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_THUMBNAIL, _SIDE, _PATCH, _STRIDE, _GRID, _WORDS = 16, 64, 6, 2, 3, 128
_COMPONENTS, _PATCHES = 192, 30_000
# A patch that varies less than this (the range is 1) is flat: its noise is not blown up.
_FLAT = 0.03
# Vectors have variance 1 in the fitted images; a strange image must not shout.
_LIMIT = 8.0


class ImageAdaptation:
    """Fitted on at least one image; ``width`` is K, at most 192 and at most a quarter of the fitted images."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.width = arrays["components"].shape[1]

    @classmethod
    def fit(cls, small: torch.Tensor, stages: torch.Tensor, seed: int) -> ImageAdaptation:
        """Learn from images as :func:`shrink` gives them, and the network's stage statistics of them [B, any]."""
        words = _dictionary(small, seed)
        # In blocks: the patches of all images at once would fill the memory.
        blocks = [_parts(*block, words) for block in zip(small.split(64), stages.split(64), strict=True)]
        parts = [np.concatenate([block[i].cpu().numpy() for block in blocks]).astype(np.float64) for i in range(3)]
        raw = np.concatenate(parts, axis=1)
        # Each of the three parts has the same say, however many columns it has.
        share = np.concatenate([np.full(part.shape[1], np.sqrt(part.shape[1])) for part in parts])
        spread = raw.std(axis=0)
        scale = np.where(spread > 1e-6, spread, np.inf) * share
        centred = (raw - raw.mean(axis=0)) / scale
        # By the Gram matrix [B, B]: there are fewer images than columns.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(-values)[: min(_COMPONENTS, max(len(raw) // 4, 1))]
        order = order[values[order] > 1e-9]
        components = centred.T @ vectors[:, order] / values[order] * np.sqrt(len(raw))
        # A component's sign is arbitrary: fixed, so that it does not depend on the linear algebra library.
        components *= np.sign(components[np.abs(components).argmax(axis=0), np.arange(len(order))])
        components /= scale[:, None]
        arrays = {
            **words,
            "components": components,
            "offset": raw.mean(axis=0) @ components,
            "explained": values[order].sum(keepdims=True) / max(values.sum(), 1e-9),
        }
        return cls({name: array.astype(np.float32) for name, array in arrays.items()})

    def transform(self, small: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [B, K]."""
        import torch

        raw = torch.cat(_parts(small, stages, self.arrays), dim=1)
        components, offset = (torch.from_numpy(self.arrays[name]).to(raw.device) for name in ("components", "offset"))
        return (raw @ components - offset).clamp(-_LIMIT, _LIMIT)

    @property
    def report(self) -> dict[str, Any]:
        """Facts worth showing."""
        return {
            "patch dictionary": len(self.arrays["words"]),
            "components": self.width,
            "variance explained": round(float(self.arrays["explained"][0]), 3),
        }


def shrink(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, S, S] in gray and small, [B, 1, 64, 64]."""
    import torch

    return torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), _SIDE)


def _patches(small: torch.Tensor) -> torch.Tensor:
    """All patches [B, places, P] of images [B, 1, side, side], each with mean 0 and spread 1 (less if flat)."""
    import torch

    patches = torch.nn.functional.unfold(small, _PATCH, stride=_STRIDE).transpose(1, 2)
    patches = patches - patches.mean(2, keepdim=True)
    return patches / (patches.square().mean(2, keepdim=True) + _FLAT**2).sqrt()


def _dictionary(small: torch.Tensor, seed: int) -> dict[str, np.ndarray]:
    """Whitening [P, P], its centre [P] and words [W, P], from a sample of the patches."""
    rng = np.random.default_rng(seed)
    each = -(-_PATCHES // len(small))
    places = ((_SIDE - _PATCH) // _STRIDE + 1) ** 2
    sample = np.concatenate(
        [_patches(one[None])[0].cpu().numpy()[rng.permutation(places)[:each]] for one in small]
    ).astype(np.float64)
    centre = sample.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((sample - centre).T))
    whitening = vectors @ np.diag((np.maximum(values, 0) + 0.01) ** -0.5) @ vectors.T
    words = _k_means((sample - centre) @ whitening, min(_WORDS, len(sample)), rng)
    return {"whitening": whitening, "centre": centre, "words": words}


def _k_means(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Centres [k, P] of points [n, P]; scikit-learn's would cost more to import than this takes to run."""
    centres = points[rng.permutation(len(points))[:k]]
    for _ in range(20):
        nearest = np.argmin((centres**2).sum(axis=1) - 2 * points @ centres.T, axis=1)
        count = np.bincount(nearest, minlength=k)[:, None]
        total = np.stack([np.bincount(nearest, weights=column, minlength=k) for column in points.T], axis=1)
        centres = np.where(count > 0, total / np.maximum(count, 1), centres)
    return centres


def _parts(
    small: torch.Tensor, stages: torch.Tensor, arrays: dict[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stage statistics, dictionary [B, 9 W] and thumbnail [B, 256]."""
    import torch

    whitening, centre, words = (
        torch.from_numpy(arrays[name]).float().to(small.device) for name in ("whitening", "centre", "words")
    )
    distance = torch.cdist((_patches(small) - centre) @ whitening, words[None])
    # How much nearer than the average word: most are 0.
    alike = (distance.mean(2, keepdim=True) - distance).relu().transpose(1, 2)
    side = int(alike.shape[2] ** 0.5)
    pool = torch.nn.functional.adaptive_avg_pool2d
    return stages, pool(alike.unflatten(2, (side, side)), _GRID).flatten(1), pool(small, _THUMBNAIL).flatten(1)
