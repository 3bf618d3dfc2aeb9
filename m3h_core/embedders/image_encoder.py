"""A timm network as the encoder of images: created or loaded, hashed, and run.

Legend: B images of a batch, S side of an image in pixels, C features.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_core.embedders.adaptation import shrink
from m3h_core.embedders.hardware import autocast, compute_device, precision
from m3h_core.embedders.store import content_key

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained"
# Raise it when the code makes other vectors of the same image: old ones in a cache are then left
# alone.
_PREPROCESSING = 1


class ImageEncoder:
    """The timm ``model`` with ``weights`` (a file, ``"pretrained"``, or None: random from ``seed``)
    for images of ``image_size`` pixels a side; loaded at the first use.
    """

    def __init__(self, model: str, weights: str | None, image_size: int, seed: int) -> None:
        self.model = model
        self.weights = weights
        self.image_size = image_size
        self.seed = seed
        self._network: Any = None
        self._saved_weights: Path | None = None
        self._sha256 = ""

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Of pictures [B, 3, S, S]: the pooled output with weights, else mean and spread of each
        stage's channels.
        """
        import torch

        network = self.load()
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

    def raw(self, batch: torch.Tensor) -> torch.Tensor:
        """What does not depend on the fit, of pictures [B, 3, S, S]: features; without weights the
        small image too.
        """
        import torch

        features = self.features(batch)
        if self.weights is not None:
            return features
        return torch.cat([features, shrink(batch).flatten(1)], dim=1)

    def weights_hash(self) -> str:
        """SHA-256 of all weights, by name."""
        if not self._sha256:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.load().state_dict().items()):
                digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
            self._sha256 = digest.hexdigest()
        return self._sha256

    def use_weights(self, file: Path) -> None:
        """Read the weights from the file of a saved embedder, at the first use."""
        self._saved_weights = file

    def load(self) -> Any:
        """The network, created at the first use."""
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
            file = self._saved_weights
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

    def key(self, batch_size: int) -> bytes:
        """Names all that decides what the network says of an image, in batches of a size."""
        decides = [
            self.model,
            self.weights_hash(),
            self.weights is None,
            self.image_size,
            batch_size,
            precision(),
            self.seed,
            _PREPROCESSING,
        ]
        return content_key(json.dumps(decides).encode())

    def save(self, file: Path) -> None:
        """Write the weights; read back by :meth:`load`."""
        from safetensors.torch import save_model

        save_model(self.load(), str(file))
