"""Images through a timm encoder.

Legend: M images of N samples, B images of a batch, S side of an image in pixels.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m3h_core.embedders.adaptation import ImageAdaptation, shrink
from m3h_core.embedders.base import Embedder, Progress, Scaler, compute_device, flatten, pool_by_recency, spread_over

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained"
VIEWS = ("PA", "AP", "LATERAL", "other")
_SAME_VIEW = {"LL": "LATERAL", "LAT": "LATERAL"}
_WEIGHTS = "encoder.safetensors"
# No radiograph is larger (mammograms: 36 million); what claims to be is damaged, or a decompression bomb.
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 512_000_000

# Images of one sample: (hours before the prediction time as a number not above 0, view, path or the file's bytes).
Images = Sequence[Sequence[tuple[float, str | None, str | Path | bytes]]]


class Unreadable(Exception):
    """An image that can't be decoded; the text says why, without a word of its content."""


class VisionEmbedder(Embedder):
    """Images [(hours, view, path or bytes), ...] of each sample, as one vector: encoder, then a one-hot of the view.

    Images are brought to ``image_size`` pixels a side, the aspect kept, and to their own range of brightness.
    A sample is the mean of its images, where one ``half_life_hours`` older weighs half. An image that can't be read is
    left out and noted in ``unreadable`` as (sample, reason); a sample without a readable image is not present.

    ``weights`` is a file of weights for the timm ``model``, ``"pretrained"`` for timm's own from the model hub, or
    None: random weights from ``seed``, adapted to the training images as `m3h_core.embedders.adaptation` says, on at
    most ``fit_images`` of them. ``image_size`` left out is 224 with weights and 128 without. The weights travel in the
    saved folder.

    Raises ValueError where the model or its weights can't be had, and where a DICOM file comes without pydicom.
    """

    modality = "vision"

    def __init__(
        self,
        model: str = "mobilenetv3_small_100",
        weights: str | Path | None = None,
        image_size: int | None = None,
        batch_size: int = 32,
        half_life_hours: float = 24.0,
        fit_images: int = 1500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if half_life_hours <= 0:
            raise ValueError(f"half_life_hours must be above 0, not {half_life_hours}")
        self.model, self.weights = model, None if weights is None else str(weights)
        self.image_size = image_size or (128 if weights is None else 224)
        self.batch_size, self.half_life_hours = batch_size, half_life_hours
        self.fit_images, self.seed = fit_images, seed
        self.unreadable: list[tuple[int, str]] = []
        self._network: Any = None
        # One of the two brings the network's output to scale: the adaptation for random weights, else the scaler.
        self._adaptation: ImageAdaptation | None = None
        self._scaler: Scaler | None = None

    def fit(self, items: Images) -> Self:
        """Adapt to the images, or learn the scale of each dimension where there are pretrained weights."""
        import torch

        _, _, rest = flatten(items)
        sources = [rest[i][1] for i in spread_over(len(rest), self.fit_images)]
        unreadable: list[tuple[int, str]] = []
        small, features = [], []
        with torch.inference_mode():
            for _, good, batch in self._batches(sources, unreadable):
                features.append(self._features(batch)[good])
                small.append(shrink(batch)[good])
        self._adaptation = self._scaler = None
        self.width = len(VIEWS)
        self.report = {
            "encoder": self.model,
            "weights": self.weights or "random",
            "image size": self.image_size,
            "fitted on": len(sources) - len(unreadable),
            "unreadable": dict(Counter(reason for _, reason in unreadable)),
        }
        if len(sources) == len(unreadable):
            return self
        if self.weights is None:
            self._adaptation = ImageAdaptation.fit(torch.cat(small), torch.cat(features), self.seed)
            self.width += self._adaptation.width
            self.report |= {"adapted": "patch dictionary and whitened components", **self._adaptation.report}
        else:
            raw = torch.cat(features).cpu().numpy()
            self._scaler = Scaler.fit(raw, drop=False)
            self.width += raw.shape[1]
        return self

    def transform(self, items: Images, on_progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Embed the images of N samples; sets ``unreadable``. Progress counts images."""
        import torch

        self._check_fitted()
        sample, hours, rest = flatten(items)
        vectors = np.zeros((len(rest), self.width), dtype=np.float32)
        unreadable: list[tuple[int, str]] = []
        with torch.inference_mode():
            for low, good, batch in self._batches([source for _, source in rest], unreadable):
                rows = low + np.array(good, dtype=np.int64)
                vectors[rows, : -len(VIEWS)] = self._encode(batch)[good]
                if on_progress:
                    on_progress(min(low + len(batch), len(rest)), len(rest))
        vectors[np.arange(len(rest)), self.width - len(VIEWS) + np.array([_view_index(v) for v, _ in rest], int)] = 1
        self.unreadable = [(int(sample[row]), reason) for row, reason in unreadable]
        used = np.delete(np.arange(len(rest)), [row for row, _ in unreadable])
        return pool_by_recency(vectors[used], sample[used], hours[used], len(items), self.half_life_hours)

    def _batches(
        self, sources: Sequence[str | Path | bytes], unreadable: list[tuple[int, str]]
    ) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        """(first position, places that were read, pictures [B, 3, S, S]); adds (position, reason) to ``unreadable``."""
        import torch

        for low in range(0, len(sources), self.batch_size):
            # Always a whole batch: an image's vector does not depend on how many others come with it.
            batch = torch.zeros(self.batch_size, 3, self.image_size, self.image_size)
            good: list[int] = []
            for place, source in enumerate(sources[low : low + self.batch_size]):
                try:
                    batch[place] = torch.from_numpy(read_image(source, self.image_size))
                except Unreadable as error:
                    unreadable.append((low + place, str(error)))
                else:
                    good.append(place)
            yield low, good, batch.to(compute_device())

    def _encode(self, batch: torch.Tensor) -> np.ndarray:
        """Vectors of pictures [B, 3, S, S], without the view."""
        if self._adaptation is not None:
            return self._adaptation.transform(shrink(batch), self._features(batch)).cpu().numpy()
        if self._scaler is not None:
            return self._scaler.transform(self._features(batch).cpu().numpy())
        return np.zeros((len(batch), 0), dtype=np.float32)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """Of pictures [B, 3, S, S]: the pooled output with weights, else mean and spread of each stage's channels."""
        import torch

        network = self._load()
        pictures = ((batch - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        if self.weights is not None:
            return network(pictures).float()
        stages = network.forward_intermediates(pictures, intermediates_only=True)
        return torch.cat([part for z in stages for part in (z.mean((2, 3)), z.std((2, 3), correction=0))], dim=1)

    def _load(self, file: Path | None = None) -> Any:
        """The network, created at the first use; its weights from a saved embedder's ``file`` where given."""
        if self._network is None:
            import torch

            from m3h_core import _torchvision_guard  # noqa: F401  (before timm)
            import timm  # isort: skip

            options: dict[str, Any] = {"num_classes": 0}
            if not timm.is_model(self.model):
                near = timm.list_models(f"*{self.model.split('_')[0]}*")[:5]
                raise ValueError(f"timm has no model {self.model!r}" + (f"; near: {', '.join(near)}" if near else ""))
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
            # Random weights come from our seed, and the caller's random numbers go on as if nothing had been.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                try:
                    network: Any = timm.create_model(self.model, **options)
                except Exception as error:  # the hub's client, HTTP, pickle and timm each have their own
                    raise ValueError(
                        f"timm model {self.model!r} with weights {self.weights!r} can't be had "
                        f"({type(error).__name__}: {error}); give the path of its weights, or none for random ones"
                    ) from error
            if file is not None:
                from safetensors.torch import load_model

                load_model(network, str(file))
            if self.weights is None and not hasattr(network, "forward_intermediates"):
                raise ValueError(f"timm model {self.model!r} shows no stages: it can't be used without weights")
            about = network.pretrained_cfg if self.weights is not None else {}
            device = compute_device()
            self._mean, self._std = (
                torch.tensor(about.get(name, (0.5, 0.5, 0.5)), device=device).reshape(1, 3, 1, 1)
                for name in ("mean", "std")
            )
            self._network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        return self._network

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("model", "weights", "image_size", "batch_size", "half_life_hours", "fit_images", "seed")
        arrays: dict[str, np.ndarray] = {}
        if self._adaptation is not None:
            arrays = {f"adaptation/{name}": array for name, array in self._adaptation.arrays.items()}
        if self._scaler is not None:
            arrays = self._scaler.arrays()
        return {"options": {name: getattr(self, name) for name in names}, "report": self.report}, arrays

    def _save_more(self, folder: Path) -> None:
        from safetensors.torch import save_model

        save_model(self._load(), str(folder / _WEIGHTS))

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        embedder.report = about["report"]
        adaptation = {
            name.removeprefix("adaptation/"): a for name, a in arrays.items() if name.startswith("adaptation/")
        }
        if adaptation:
            embedder._adaptation = ImageAdaptation(adaptation)
        if "scaler/mean" in arrays:
            embedder._scaler = Scaler.from_arrays(arrays)
        embedder._load(folder / _WEIGHTS)
        return embedder


def read_image(source: str | Path | bytes, size: int) -> np.ndarray:
    """An image file as float32 [3, size, size] in 0..1, its aspect kept, black at the sides.

    JPEG, PNG, TIFF and DICOM of 8 or 16 bits, gray or in colour. Brightness is stretched between the image's own 0.5th
    and 99.5th percentile: exposure and bit depth do not count. Raises Unreadable, and ValueError for want of pydicom.
    """
    try:
        with warnings.catch_warnings():
            # Decoders warn of oddities, with values out of the file.
            warnings.simplefilter("ignore")
            small = _read(source, size)
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable("no such file") from None
    except MemoryError:
        raise Unreadable("too large for the memory") from None
    except _MissingPackage as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        # On damaged bytes decoders raise anything, and their messages may quote the file.
        raise Unreadable(f"damaged or of an unknown kind ({type(error).__name__})") from None
    low, high = np.percentile(small, (0.5, 99.5))
    small = np.clip((small - low) / (high - low), 0, 1) if high > low else np.zeros_like(small)
    top, left = (size - small.shape[0]) // 2, (size - small.shape[1]) // 2
    picture = np.zeros((3, size, size), dtype=np.float32)
    picture[:, top : top + small.shape[0], left : left + small.shape[1]] = (
        small if small.ndim == 2 else small.transpose(2, 0, 1)
    )
    return picture


class _MissingPackage(Exception):
    pass


def _read(source: str | Path | bytes, size: int) -> np.ndarray:
    """Gray [h, w] or colour [h, w, 3], shrunk so that the longer side is ``size``; float32 of any range."""
    from PIL import Image

    if not isinstance(source, bytes):
        if Path(source).stat().st_size > _MOST_BYTES:
            raise Unreadable("too large a file")
        source = Path(source).read_bytes()
    if not source:
        raise Unreadable("empty file")
    if source[128:132] == b"DICM":
        image = Image.fromarray(_read_dicom(source))
    else:
        try:
            image = Image.open(io.BytesIO(source), formats=("JPEG", "PNG", "TIFF"))
        except Image.DecompressionBombError:
            raise Unreadable("too many pixels") from None
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
    """The first frame: uint8 [h, w, 3], or float32 [h, w] with the stored lookup applied and bone white."""
    if importlib.util.find_spec("pydicom") is None:
        raise _MissingPackage("a DICOM image was given, and pydicom is not installed: pip install 'm3h[dicom]'")
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    data = pydicom.dcmread(io.BytesIO(content))
    _check_pixels(int(data.Rows), int(data.Columns))
    pixels = pixel_array(data, index=0)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (255 * (pixels / max(pixels.max(), 1))).astype(np.uint8)
    pixels = apply_voi_lut(apply_modality_lut(pixels, data), data).astype(np.float32)
    return pixels.max() - pixels if data.PhotometricInterpretation == "MONOCHROME1" else pixels


def _check_pixels(height: int, width: int) -> None:
    if height * width > _MOST_PIXELS:
        raise Unreadable("too many pixels")


def _view_index(view: str | None) -> int:
    name = (view or "").strip().upper()
    name = _SAME_VIEW.get(name, name)
    return VIEWS.index(name) if name in VIEWS else len(VIEWS) - 1
