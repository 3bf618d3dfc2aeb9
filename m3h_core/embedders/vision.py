"""Images through a pretrained encoder.

Legend: M images of N samples, B images of a batch, S side of an image in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m3h_core.embedders.base import (
    Embedder,
    Progress,
    blocks,
    flatten,
    list_unreadable,
    pool_by_recency,
    spread_positions,
)
from m3h_core.embedders.hardware import (
    count_cores,
    map_ahead,
    on_gpu,
    precision,
    release_memory,
    to_device,
)
from m3h_core.embedders.image_components import ImageComponents
from m3h_core.embedders.image_encoder import ImageEncoder
from m3h_core.embedders.image_files import UnreadableImage, read_content, read_image
from m3h_core.embedders.installed_weights import EFFICIENTNET_LITE0
from m3h_core.embedders.store import FileKeys, VectorStore, content_key

if TYPE_CHECKING:
    import torch

VIEWS = ("PA", "AP", "LATERAL", "other")
_SAME_VIEW = {"LL": "LATERAL", "LAT": "LATERAL"}
_WEIGHTS = "encoder.safetensors"
# Images at a time: bounds memory, and is what a kill can lose.
_BLOCK = 512
_IMAGE_SIZE = 224
# Small: on a CPU the network's layers then stay in its cache (measured: 43 images a second a core,
# 30 in batches of 32).
_BATCH = 8
_BATCH_GPU = 256

# Images of one sample: (hours before the prediction time as a number not above 0, view, path or the
# file's bytes).
Images = Sequence[Sequence[tuple[float, str | None, str | Path | bytes]]]


class VisionEmbedder(Embedder):
    """Images [(hours, view, path or bytes), ...] of each sample, as one vector: components of what
    the encoder says and of a thumbnail, then a one-hot of the view.

    Images are brought to ``image_size`` pixels a side, the aspect kept, and to their own range of
    brightness. A sample is the mean of its images, where one ``half_life_hours`` older weighs half.
    An image that can't be read is left out and noted in ``unreadable``; a sample without a readable
    image is not present. Equal images of a block of samples are embedded once. ``batch_size`` left
    out fits the device.

    With a ``cache`` an image is decoded and run through the network once. The components are fitted
    on at most ``fit_images`` training images, without labels; they work on what the network said
    (kept in the cache), and are cheap.

    ``model`` is ``"efficientnet-lite0"``, whose ImageNet weights are installed with M3H, or a timm
    model with ``weights``: a file, or ``"pretrained"`` for timm's own from the model hub. The
    weights travel in the saved folder.

    Raises ValueError where the model or its weights can't be had, and where a DICOM file comes
    without pydicom.
    """

    modality = "vision"

    def __init__(
        self,
        model: str = EFFICIENTNET_LITE0,
        weights: str | Path | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        half_life_hours: float = 24.0,
        fit_images: int = 1500,
    ) -> None:
        super().__init__()
        if half_life_hours <= 0:
            raise ValueError(f"half_life_hours must be above 0, not {half_life_hours}")
        self.model = model
        self.weights = None if weights is None else str(weights)
        self.image_size = image_size or _IMAGE_SIZE
        self.half_life_hours = half_life_hours
        self._batch_size = batch_size
        self.fit_images = fit_images
        self.encoder = ImageEncoder(self.model, self.weights, self.image_size)
        self._kept: VectorStore | None = None
        self._components: ImageComponents | None = None

    @property
    def batch_size(self) -> int:
        """Images a forward pass."""
        return self._batch_size or (_BATCH_GPU if on_gpu() else _BATCH)

    def fit(self, items: Images, on_progress: Progress | None = None) -> Self:
        """Learn the components of images."""
        # Without a cache what was read is kept for the transform that follows.
        self._kept = None if self.cache else VectorStore(None)
        flatten(items)  # no image of the future
        sources = [image[-1] for sample in items for image in sample]
        sources = [sources[i] for i in spread_positions(len(sources), self.fit_images)]
        store = self._raw_store()
        n = len(sources)
        outcomes = self._embed(
            sources, store, lambda share: on_progress(int(share * n), n) if on_progress else None
        )
        keys = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        self._components = None
        self.width = len(VIEWS)
        self.report = {
            "encoder": self.model,
            **self.encoder.provenance,
            "sha256": self.encoder.weights_hash(),
            "precision": precision(),
            "image size": self.image_size,
            "fitted on": len(keys),
            "unreadable": dict(
                Counter(outcome for outcome in outcomes if isinstance(outcome, str))
            ),
        }
        if keys:
            self._components = ImageComponents.fit(store.get_all(keys))
            self.width += self._components.width
            self.report |= self._components.report
        return self

    def transform(
        self, items: Images, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the images of N samples; progress counts samples."""
        self._check_fitted()
        pooled = np.zeros((len(items), self.width), np.float32)
        present = np.zeros(len(items), bool)
        raw = self._raw_store()
        self.unreadable = []
        self.computed = 0
        done = 0
        for block in blocks(items, range(len(items)), _BLOCK, len):
            sample, hours, rest = flatten(block.items)

            def progress(share: float, done: int = done, size: int = len(block.rows)) -> None:
                if on_progress:
                    on_progress(done + int(share * size), len(items))

            # In memory it holds no more than a block.
            store = raw if raw.folder else raw.copy()
            vectors, reasons = self._vectors([source for _, source in rest], store, progress)
            vectors = np.column_stack(
                [vectors, np.eye(len(VIEWS))[[_view_index(view) for view, _ in rest]]]
            )
            good = np.array([reason is None for reason in reasons], dtype=bool)
            wrong = {i: str(reason) for i, reason in enumerate(reasons) if reason is not None}
            self.unreadable += list_unreadable(block.rows, sample, wrong)
            pooled[block.rows], present[block.rows] = pool_by_recency(
                vectors[good].astype(np.float32),
                sample[good],
                hours[good],
                len(block.rows),
                self.half_life_hours,
            )
            done += len(block.rows)
            progress(0, done)
            release_memory()
        self._kept = None
        return pooled, present

    @staticmethod
    def declared_width() -> int:
        """The width where no image was fitted: the view's alone."""
        return len(VIEWS)

    def fill_cache(self, items: Images) -> None:
        """Run the network on the images of N samples into the cache."""
        store = self._raw_store()
        for block in blocks(items, range(len(items)), _BLOCK, len):
            self._embed(
                [image[-1] for sample in block.items for image in sample], store, lambda _: None
            )

    def check(self) -> None:
        """Load the network; raise ValueError where it or its weights can't be had."""
        self.encoder.load()

    def content_key(self, source: str | Path | bytes) -> bytes | None:
        """What the vector of an image is cached by; None for a file that isn't there."""
        return self._file_keys([source])[0] or _key_of_content(source)

    def _vectors(
        self,
        sources: Sequence[str | Path | bytes],
        store: VectorStore,
        progress: Callable[[float], None],
    ) -> tuple[np.ndarray, list[str | None]]:
        """Vectors [n, F - views] of images, without their view, and why there is none."""
        outcomes = self._embed(sources, store, progress)
        vectors = np.zeros((len(sources), self.width - len(VIEWS)), np.float32)
        good = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, bytes)]
        if good and self._components is not None:
            keys = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
            vectors[good] = self._components.transform(store.get_all(keys))
        return vectors, [outcome if isinstance(outcome, str) else None for outcome in outcomes]

    def _embed(
        self,
        sources: Sequence[str | Path | bytes],
        store: VectorStore,
        progress: Callable[[float], None],
    ) -> list[bytes | str]:
        """Put what the network says of images into the store; returns the key of each, or why it
        can't be read.
        """
        import torch

        keys = self._file_keys(sources)
        is_stored = store.find([key or b"" for key in keys])
        outcomes: dict[Any, bytes | str] = {
            source: key
            for source, key, stored in zip(sources, keys, is_stored, strict=True)
            if key is not None and stored
        }
        todo = [source for source in dict.fromkeys(sources) if source not in outcomes]

        def read(source: str | Path | bytes) -> tuple[bytes | str, np.ndarray | None]:
            try:
                content = read_content(source)
                key = content_key(content)
                return key, None if store.find([key])[0] else read_image(content, self.image_size)
            except UnreadableImage as error:
                return str(error), None

        new: list[bytes] = []
        rows: list[torch.Tensor] = []

        def keep() -> None:
            if rows:
                store.put(new, torch.cat(rows).cpu().numpy())
            self.computed += len(new)
            new.clear()
            rows.clear()

        # Always a whole batch: an image's vector does not depend on how many others come with it.
        batch = torch.zeros(self.batch_size, 3, self.image_size, self.image_size)
        filled = 0
        with torch.inference_mode():
            for i, (outcome, picture) in enumerate(
                map_ahead(read, todo, count_cores(), 2 * count_cores() + self.batch_size)
            ):
                outcomes[todo[i]] = outcome
                if picture is not None and isinstance(outcome, bytes):
                    batch[filled] = torch.from_numpy(picture)
                    filled = filled + 1
                    new.append(outcome)
                if filled == self.batch_size or (filled and i == len(todo) - 1):
                    rows.append(self.encoder.raw(to_device(batch))[:filled])
                    filled = 0
                    if len(new) >= _BLOCK:
                        keep()
                progress((i + 1) / len(todo))
            keep()
        self._files.enter(
            {
                source: outcome
                for source, outcome in outcomes.items()
                if not isinstance(source, bytes) and isinstance(outcome, bytes)
            }
        )
        return [outcomes[source] for source in sources]

    def _file_keys(self, sources: Sequence[str | Path | bytes]) -> list[Any]:
        """The content key of each source that is known without reading a file, else None."""
        files = [source for source in sources if not isinstance(source, bytes)]
        of_files = iter(self._files.keys(files))
        return [
            content_key(source) if isinstance(source, bytes) else next(of_files)
            for source in sources
        ]

    @cached_property
    def _files(self) -> FileKeys:
        return FileKeys(self.cache)

    def _raw_store(self) -> VectorStore:
        if self.cache is None:
            return VectorStore(None) if self._kept is None else self._kept
        return VectorStore(
            self.cache / f"{self.modality}-{self.encoder.key(self.batch_size).hex()}"
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("model", "weights", "image_size", "half_life_hours", "fit_images")
        options = {name: getattr(self, name) for name in names} | {"batch_size": self._batch_size}
        arrays = {} if self._components is None else self._components.arrays
        return {"options": options, "report": self.report}, arrays

    def _save_more(self, folder: Path) -> None:
        self.encoder.save(folder / _WEIGHTS)

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        if "seed" in about["options"]:
            raise ValueError(
                f"{folder} holds a vision embedder of an earlier version, which made other vectors "
                "of an image: train a new model"
            )
        embedder = cls(**about["options"])
        embedder.report = about["report"]
        if arrays:
            embedder._components = ImageComponents(
                arrays, about["report"].get("variance explained", {})
            )
        embedder.encoder.use_weights(folder / _WEIGHTS)
        return embedder


def _key_of_content(source: str | Path | bytes) -> bytes | None:
    try:
        return content_key(read_content(source))
    except UnreadableImage:
        return None


def _view_index(view: str | None) -> int:
    name = (view or "").strip().upper()
    name = _SAME_VIEW.get(name, name)
    return VIEWS.index(name) if name in VIEWS else len(VIEWS) - 1
