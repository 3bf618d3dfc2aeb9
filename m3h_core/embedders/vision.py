"""Images through a timm encoder.

Legend: M images of N samples, B images of a batch, S side of an image in pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from m3h_core.embedders.adaptation import SIDE, ImageAdaptation, shrink
from m3h_core.embedders.base import (
    Embedder,
    Progress,
    Scaler,
    Unreadable,
    blocks,
    flatten,
    pool_by_recency,
    spread_over,
)
from m3h_core.embedders.hardware import (
    ahead,
    autocast,
    compute_device,
    cores,
    on_gpu,
    precision,
    release_memory,
    to_device,
)
from m3h_core.embedders.store import FITTED, FileKeys, VectorStore, content_key

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained"
VIEWS = ("PA", "AP", "LATERAL", "other")
_SAME_VIEW = {"LL": "LATERAL", "LAT": "LATERAL"}
_WEIGHTS = "encoder.safetensors"
# Images at a time: bounds memory, and is what a kill can lose.
_BLOCK = 512
_BATCH = 32
_BATCH_GPU = 256
# Raise it when the code makes other vectors of the same image: old ones in a cache are then left
# alone.
_PREPROCESSING = 1
# No radiograph is larger (mammograms: 36 million); what claims to be is damaged, or a decompression
# bomb.
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 512_000_000

# Images of one sample: (hours before the prediction time as a number not above 0, view, path or the
# file's bytes).
Images = Sequence[Sequence[tuple[float, str | None, str | Path | bytes]]]


class UnreadableImage(Exception):
    """An image that can't be decoded; the text says why, without a word of its content."""


class VisionEmbedder(Embedder):
    """Images [(hours, view, path or bytes), ...] of each sample, as one vector: encoder, then a
    one-hot of the view.

    Images are brought to ``image_size`` pixels a side, the aspect kept, and to their own range of
    brightness. A sample is the mean of its images, where one ``half_life_hours`` older weighs half.
    An image that can't be read is left out and noted in ``unreadable``; a sample without a readable
    image is not present. Equal images of a block of samples are embedded once. ``batch_size`` left
    out fits the device.

    With a ``cache`` an image is decoded and run through the network once. What is fitted without
    pretrained weights changes whenever the training images do; it works on what the network said
    (kept in the cache), and is cheap.

    ``weights`` is a file of weights for the timm ``model``, ``"pretrained"`` for timm's own from
    the model hub, or None: random weights from ``seed``, adapted to the training images as
    `m3h_core.embedders.adaptation` says, on at most ``fit_images`` of them. ``image_size`` left out
    is 224 with weights and 128 without. The weights travel in the saved folder.

    Raises ValueError where the model or its weights can't be had, and where a DICOM file comes
    without pydicom.
    """

    modality = "vision"

    def __init__(
        self,
        model: str = "mobilenetv3_small_100",
        weights: str | Path | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        half_life_hours: float = 24.0,
        fit_images: int = 1500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if half_life_hours <= 0:
            raise ValueError(f"half_life_hours must be above 0, not {half_life_hours}")
        self.model = model
        self.weights = None if weights is None else str(weights)
        self.image_size = image_size or (128 if weights is None else 224)
        self.half_life_hours = half_life_hours
        self._batch_size = batch_size
        self.fit_images = fit_images
        self.seed = seed
        self._network: Any = None
        self._kept: VectorStore | None = None
        self._sha256 = ""
        # Names the images that the adaptation was fitted on, and the encoder.
        self._fitted_on = ""
        # One of the two brings the network's output to scale: the adaptation for random weights,
        # else the scaler.
        self._adaptation: ImageAdaptation | None = None
        self._scaler: Scaler | None = None

    @property
    def batch_size(self) -> int:
        """Images a forward pass."""
        return self._batch_size or (_BATCH_GPU if on_gpu() else _BATCH)

    def fit(self, items: Images, on_progress: Progress | None = None) -> Self:
        """Adapt to the images, or learn the scale of each dimension where there are pretrained
        weights.
        """
        # Without a cache what was read is kept for the transform that follows.
        self._kept = None if self.cache else VectorStore(None)
        flatten(items)  # no image of the future
        sources = [image[-1] for sample in items for image in sample]
        sources = [sources[i] for i in spread_over(len(sources), self.fit_images)]
        store = self._raw_store()
        n = len(sources)
        outcomes = self._embed(
            sources, store, lambda share: on_progress(int(share * n), n) if on_progress else None
        )
        keys = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        self._adaptation = self._scaler = None
        self.width = len(VIEWS)
        self.report = {
            "encoder": self.model,
            "weights": self.weights or "random",
            "sha256": self._weights_hash(),
            "precision": precision(),
            "image size": self.image_size,
            "fitted on": len(keys),
            "unreadable": dict(
                Counter(outcome for outcome in outcomes if isinstance(outcome, str))
            ),
        }
        if not keys:
            return self
        if self.weights is None:
            self._fitted_on = content_key(self._encoder_key(), *keys).hex()
            self._adaptation = self._adapt(store, keys)
            self.width += self._adaptation.width
            self.report |= {
                "adapted": "patch dictionary and whitened components",
                **self._adaptation.report,
            }
        else:
            self._scaler = Scaler.fit(_rows(store, keys), drop=False)
            self.width += store.width
        return self

    def transform(
        self, items: Images, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the images of N samples; progress counts samples."""
        self._check_fitted()
        pooled = np.zeros((len(items), self.width), np.float32)
        present = np.zeros(len(items), bool)
        raw = self._raw_store()
        final = self._final_store()
        self.unreadable = []
        self.computed = 0
        done = 0
        for block in blocks(items, range(len(items)), _BLOCK, len):
            sample, hours, rest = flatten(block.items)

            def progress(share: float, done: int = done, size: int = len(block.rows)) -> None:
                if on_progress:
                    on_progress(done + int(share * size), len(items))

            # In memory they hold no more than a block.
            stores = (store if store.folder else store.copy() for store in (raw, final))
            vectors, reasons = self._vectors([source for _, source in rest], *stores, progress)
            vectors = np.column_stack(
                [vectors, np.eye(len(VIEWS))[[_view_index(view) for view, _ in rest]]]
            )
            good = np.array([reason is None for reason in reasons], dtype=bool)
            self.unreadable += [
                Unreadable(
                    int(block.rows[sample[i]]),
                    int(i - np.searchsorted(sample, sample[i])),
                    str(reasons[i]),
                )
                for i in np.flatnonzero(~good)
            ]
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
        self._load()

    def content_key(self, source: str | Path | bytes) -> bytes | None:
        """What the vector of an image is cached by; None for a file that isn't there."""
        return self._file_keys([source])[0] or _content_key(source)

    def _vectors(
        self,
        sources: Sequence[str | Path | bytes],
        raw: VectorStore,
        final: VectorStore,
        progress: Callable[[float], None],
    ) -> tuple[np.ndarray, list[str | None]]:
        """Vectors [n, F - views] of images, without their view, and why there is none."""
        keys = self._file_keys(sources)
        vectors, found = final.get([key or b"" for key in keys])
        if not found.all():
            missing = np.flatnonzero(~found)
            outcomes = self._embed([sources[i] for i in missing], raw, progress)
            good = [outcome for outcome in dict.fromkeys(outcomes) if isinstance(outcome, bytes)]
            final.put(good, self._finish(_rows(raw, good)))
            for i, outcome in zip(missing, outcomes, strict=True):
                keys[i] = outcome
            vectors, _ = final.get([key if isinstance(key, bytes) else b"" for key in keys])
        width = self.width - len(VIEWS)
        return vectors if vectors.shape[1] == width else np.zeros((len(sources), width)), [
            key if isinstance(key, str) else None for key in keys
        ]

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

        known = self._file_keys(sources)
        outcomes: dict[Any, bytes | str] = {
            source: key
            for source, key, here in zip(
                sources, known, store.find([key or b"" for key in known]), strict=True
            )
            if key is not None and here
        }
        todo = [source for source in dict.fromkeys(sources) if source not in outcomes]

        def read(source: str | Path | bytes) -> tuple[bytes | str, np.ndarray | None]:
            try:
                content = _content(source)
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
                ahead(read, todo, cores(), 2 * cores() + self.batch_size)
            ):
                outcomes[todo[i]] = outcome
                if picture is not None and isinstance(outcome, bytes):
                    batch[filled] = torch.from_numpy(picture)
                    filled = filled + 1
                    new.append(outcome)
                if filled == self.batch_size or (filled and i == len(todo) - 1):
                    rows.append(self._raw(to_device(batch))[:filled])
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

    def _raw(self, batch: torch.Tensor) -> torch.Tensor:
        """What does not depend on the fit, of pictures [B, 3, S, S]: features; without weights the
        small image too.
        """
        import torch

        features = self._features(batch)
        return (
            features
            if self.weights is not None
            else torch.cat([features, shrink(batch).flatten(1)], dim=1)
        )

    def _finish(self, raw: np.ndarray) -> np.ndarray:
        """Vectors [n, F - views] from what the network says of n images."""
        import torch

        if self._scaler is not None:
            return self._scaler.transform(raw)
        if self._adaptation is None:
            return np.zeros((len(raw), 0), dtype=np.float32)
        vectors = np.empty((len(raw), self._adaptation.width), dtype=np.float32)
        # Whole batches here too.
        batch = np.zeros((self.batch_size, raw.shape[1]), dtype=np.float32)
        with torch.inference_mode():
            for low in range(0, len(raw), self.batch_size):
                part = raw[low : low + self.batch_size]
                batch[: len(part)] = part
                vectors[low : low + len(part)] = self._adaptation.transform(
                    *self._split(batch)
                ).cpu()[: len(part)]
        return vectors

    def _split(self, raw: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images in small [n, 1, side, side] and features [n, C]."""
        import torch

        rows = torch.from_numpy(raw).to(compute_device())
        return rows[:, -(SIDE**2) :].reshape(-1, 1, SIDE, SIDE), rows[:, : -(SIDE**2)]

    def _adapt(self, store: VectorStore, keys: list[bytes]) -> ImageAdaptation:
        """The adaptation to these images: read, where the cache has it, else fitted."""
        file = self._final_folder() / FITTED / "adaptation.safetensors" if self.cache else None
        if file is not None and file.exists():
            return ImageAdaptation(load_file(file))
        adaptation = ImageAdaptation.fit(*self._split(_rows(store, keys)), self.seed)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
            save_file(adaptation.arrays, partial)
            os.replace(partial, file)
        return adaptation

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """Of pictures [B, 3, S, S]: the pooled output with weights, else mean and spread of each
        stage's channels.
        """
        import torch

        network = self._load()
        with autocast():
            pictures = ((batch - self._mean) / self._std).contiguous(
                memory_format=torch.channels_last
            )
            if self.weights is not None:
                return network(pictures).float()
            stages = network.forward_intermediates(pictures, intermediates_only=True)
        stages = [z.float() for z in stages]
        return torch.cat(
            [part for z in stages for part in (z.mean((2, 3)), z.std((2, 3), correction=0))], dim=1
        )

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
        return VectorStore(self.cache / f"{self.modality}-{self._encoder_key().hex()}")

    def _final_store(self) -> VectorStore:
        """What depends on the fit: dear enough to be kept where it is an adaptation."""
        kept = self.cache is not None and self._adaptation is not None and self._fitted_on
        return VectorStore(self._final_folder() if kept else None)

    def _final_folder(self) -> Path:
        return Path(self.cache or "") / f"{self.modality}-{FITTED}-{self._fitted_on}"

    def _encoder_key(self) -> bytes:
        decides = [
            self.model,
            self._weights_hash(),
            self.weights is None,
            self.image_size,
            self.batch_size,
        ]
        return content_key(json.dumps([*decides, precision(), self.seed, _PREPROCESSING]).encode())

    def _weights_hash(self) -> str:
        if not self._sha256:
            digest = hashlib.sha256()
            for name, tensor in sorted(self._load().state_dict().items()):
                digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _load(self, file: Path | None = None) -> Any:
        """The network, created at the first use; its weights from a saved embedder's ``file`` where
        given.
        """
        if self._network is None:
            import torch

            from m3h_core import _torchvision_guard  # noqa: F401  (before timm)
            import timm  # isort: skip

            options: dict[str, Any] = {"num_classes": 0}
            if not timm.is_model(self.model):
                near = timm.list_models(f"*{self.model.split('_')[0]}*")[:5]
                raise ValueError(
                    f"timm has no model {self.model!r}"
                    + (f"; near: {', '.join(near)}" if near else "")
                )
            config = timm.get_pretrained_cfg(self.model)
            # Vision transformers are built for one size.
            if config is not None and config.fixed_input_size:
                options["img_size"] = self.image_size
            if file is None and self.weights is not None:
                options["pretrained"] = True
                if self.weights != PRETRAINED:
                    if not Path(self.weights).is_file():
                        raise ValueError(f"weights {self.weights!r}: no such file")
                    options["pretrained_cfg_overlay"] = {"file": self.weights}
            # Random weights come from our seed, and the caller's random numbers go on as if nothing
            # had been.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                try:
                    network: Any = timm.create_model(self.model, **options)
                except (
                    Exception
                ) as error:  # the hub's client, HTTP, pickle and timm each have their own
                    raise ValueError(
                        f"timm model {self.model!r} with weights {self.weights!r} can't be had "
                        f"({type(error).__name__}: {error}); give the path of its weights, or none "
                        "for random ones"
                    ) from error
            if file is not None:
                from safetensors.torch import load_model

                load_model(network, str(file))
            if self.weights is None and not hasattr(network, "forward_intermediates"):
                raise ValueError(
                    f"timm model {self.model!r} shows no stages: it can't be used without weights"
                )
            about = network.pretrained_cfg if self.weights is not None else {}
            device = compute_device()
            self._mean, self._std = (
                torch.tensor(about.get(name, (0.5, 0.5, 0.5)), device=device).reshape(1, 3, 1, 1)
                for name in ("mean", "std")
            )
            self._network = (
                network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
            )
        return self._network

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("model", "weights", "image_size", "half_life_hours", "fit_images", "seed")
        arrays: dict[str, np.ndarray] = {}
        if self._adaptation is not None:
            arrays = {
                f"adaptation/{name}": array for name, array in self._adaptation.arrays.items()
            }
        if self._scaler is not None:
            arrays = self._scaler.arrays()
        options = {name: getattr(self, name) for name in names} | {"batch_size": self._batch_size}
        return {"options": options, "report": self.report}, arrays

    def _save_more(self, folder: Path) -> None:
        from safetensors.torch import save_model

        save_model(self._load(), str(folder / _WEIGHTS))

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        embedder.report = about["report"]
        adaptation = {
            name.removeprefix("adaptation/"): a
            for name, a in arrays.items()
            if name.startswith("adaptation/")
        }
        if adaptation:
            embedder._adaptation = ImageAdaptation(adaptation)
        if "scaler/mean" in arrays:
            embedder._scaler = Scaler.from_arrays(arrays)
        embedder._load(folder / _WEIGHTS)
        return embedder


def read_image(source: str | Path | bytes, size: int) -> np.ndarray:
    """An image file as float32 [3, size, size] in 0..1, its aspect kept, black at the sides.

    JPEG, PNG, TIFF and DICOM of 8 or 16 bits, gray or in colour. Brightness is stretched between
    the image's own 0.5th and 99.5th percentile: exposure and bit depth do not count. Raises
    UnreadableImage, and ValueError where pydicom is needed and missing.
    """
    try:
        with warnings.catch_warnings():
            # Decoders warn of oddities, with values out of the file.
            warnings.simplefilter("ignore")
            small = _read(source, size)
    except UnreadableImage:
        raise
    except MemoryError:
        raise UnreadableImage("too large for the memory") from None
    except _MissingPackage as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        # On damaged bytes decoders raise anything, and their messages may quote the file.
        raise UnreadableImage(f"damaged or of an unknown kind ({type(error).__name__})") from None
    low, high = np.percentile(small, (0.5, 99.5))
    small = np.clip((small - low) / (high - low), 0, 1) if high > low else np.zeros_like(small)
    top = (size - small.shape[0]) // 2
    left = (size - small.shape[1]) // 2
    picture = np.zeros((3, size, size), dtype=np.float32)
    picture[:, top : top + small.shape[0], left : left + small.shape[1]] = (
        small if small.ndim == 2 else small.transpose(2, 0, 1)
    )
    return picture


class _MissingPackage(Exception):
    pass


def _content(source: str | Path | bytes) -> bytes:
    """The bytes of an image file; raises UnreadableImage."""
    try:
        if not isinstance(source, bytes):
            found = Path(source).stat()
            # A pipe would be waited for, and a device may have no end.
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableImage("not a regular file")
            if found.st_size > _MOST_BYTES:
                raise UnreadableImage("too large a file")
            source = Path(source).read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"damaged or of an unknown kind ({type(error).__name__})") from None
    if not source:
        raise UnreadableImage("empty file")
    return source


def _content_key(source: str | Path | bytes) -> bytes | None:
    try:
        return content_key(_content(source))
    except UnreadableImage:
        return None


def _rows(store: VectorStore, keys: list[bytes]) -> np.ndarray:
    rows, found = store.get(keys)
    if not found.all():
        raise RuntimeError(
            f"{store.folder} lost rows while it was in use: start again when nothing erases from it"
        )
    return rows


def _read(source: str | Path | bytes, size: int) -> np.ndarray:
    """Gray [h, w] or colour [h, w, 3], shrunk so that the longer side is ``size``; float32 of any
    range.
    """
    from PIL import Image

    source = _content(source)
    if source[128:132] == b"DICM":
        image = Image.fromarray(_read_dicom(source))
    else:
        try:
            image = Image.open(io.BytesIO(source), formats=("JPEG", "PNG", "TIFF"))
        except Image.DecompressionBombError:
            raise UnreadableImage("too many pixels") from None
        _check_pixels(*image.size)
        # A JPEG is decoded at a fraction of its size where that is enough.
        image.draft(None, (size, size))
        image.load()
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode[0] in "IF":
        image = Image.fromarray(np.nan_to_num(np.asarray(image, dtype=np.float32)))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    scale = size / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)


def _read_dicom(content: bytes) -> np.ndarray:
    """The first frame: uint8 [h, w, 3], or float32 [h, w] with the stored lookup applied and bone
    white.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise _MissingPackage(
            "a DICOM image was given, and pydicom is not installed: pip install 'm3h[dicom]'"
        )
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    data = pydicom.dcmread(io.BytesIO(content))
    _check_pixels(int(data.Rows), int(data.Columns))
    pixels = pixel_array(data, index=0)
    if pixels.ndim == 3:
        return (
            pixels
            if pixels.dtype == np.uint8
            else (255 * (pixels / max(pixels.max(), 1))).astype(np.uint8)
        )
    pixels = apply_voi_lut(apply_modality_lut(pixels, data), data).astype(np.float32)
    return pixels.max() - pixels if data.PhotometricInterpretation == "MONOCHROME1" else pixels


def _check_pixels(height: int, width: int) -> None:
    if height * width > _MOST_PIXELS:
        raise UnreadableImage("too many pixels")


def _view_index(view: str | None) -> int:
    name = (view or "").strip().upper()
    name = _SAME_VIEW.get(name, name)
    return VIEWS.index(name) if name in VIEWS else len(VIEWS) - 1
