"""A timm network as the encoder of images: created or loaded, hashed, and run.

Legend: B images of a batch, S side of an image in pixels, C features.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_core.embedders.hardware import autocast, compute_device, precision
from m3h_core.embedders.image_components import shrink
from m3h_core.embedders.installed_weights import (
    EFFICIENTNET_LITE0,
    PROVENANCE,
    TIMM_NAME,
    read_installed_weights,
)
from m3h_core.embedders.store import content_key

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained"
# Raise it when the code makes other vectors of the same image: old ones in a cache are then left
# alone.
_PREPROCESSING = 2


class ImageEncoder:
    """A pretrained network for images of ``image_size`` pixels a side, loaded at the first use:
    ``"efficientnet-lite0"``, whose weights are installed, or the timm ``model`` with ``weights`` (a
    file, or ``"pretrained"`` for timm's own from the model hub).

    Raises ValueError where a timm model comes without weights, or the installed one with some.
    """

    def __init__(self, model: str, weights: str | None, image_size: int) -> None:
        if model == EFFICIENTNET_LITE0 and weights is not None:
            raise ValueError(
                f"{EFFICIENTNET_LITE0!r} has its weights: leave out {weights!r}, or name the timm "
                f"model that they are of, such as {TIMM_NAME!r}"
            )
        self.model = model
        self.weights = weights
        self.image_size = image_size
        self._network: Any = None
        self._saved_weights: Path | None = None
        self._sha256 = ""

    @property
    def provenance(self) -> dict[str, str]:
        """Where the weights come from."""
        return PROVENANCE if self.model == EFFICIENTNET_LITE0 else {"weights": str(self.weights)}

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """The pooled output [B, C] of pictures [B, 3, S, S] in 0..1, brought to the mean and spread
        that the weights were trained with.
        """
        import torch

        network = self.load()
        with autocast():
            pictures = ((batch - self._mean) / self._std).contiguous(
                memory_format=torch.channels_last
            )
            return network(pictures).float()

    def raw(self, batch: torch.Tensor) -> torch.Tensor:
        """What does not depend on the fit, of pictures [B, 3, S, S]: features, then a thumbnail."""
        import torch

        return torch.cat([self.features(batch), shrink(batch)], dim=1)

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

            name = TIMM_NAME if self.model == EFFICIENTNET_LITE0 else self.model
            if not timm.is_model(name):
                near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
                raise ValueError(
                    f"timm has no model {name!r}" + (f"; near: {', '.join(near)}" if near else "")
                )
            network = self._create(timm, name)
            about = network.pretrained_cfg
            device = compute_device()
            self._mean, self._std = (
                torch.tensor(about[key], device=device).reshape(1, 3, 1, 1)
                for key in ("mean", "std")
            )
            self._network = (
                network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
            )
        return self._network

    def _create(self, timm: Any, name: str) -> Any:
        """The network with its weights: those of a saved embedder, installed, of a file or the
        hub's.
        """
        import torch

        options: dict[str, Any] = {"num_classes": 0}
        config = timm.get_pretrained_cfg(name)
        # Vision transformers are built for one size.
        if config is not None and config.fixed_input_size:
            options["img_size"] = self.image_size
        comes_with_weights = self._saved_weights is None and self.model != EFFICIENTNET_LITE0
        if comes_with_weights:
            options |= self._choose_weights()
        # The caller's random numbers go on as if nothing had been.
        with torch.random.fork_rng(devices=[]):
            try:
                network: Any = timm.create_model(name, **options)
            except Exception as error:  # the hub's client, HTTP, pickle and timm have their own
                raise ValueError(
                    f"timm model {name!r} with weights {self.weights!r} can't be had "
                    f"({type(error).__name__}: {error}); give the path of its weights, or use the "
                    f"installed {EFFICIENTNET_LITE0!r}"
                ) from error
        if self._saved_weights is not None:
            from safetensors.torch import load_model

            load_model(network, str(self._saved_weights))
        elif not comes_with_weights:
            network.load_state_dict(read_installed_weights(network.state_dict()))
        return network

    def _choose_weights(self) -> dict[str, Any]:
        """How timm is told which weights to take."""
        if self.weights is None:
            raise ValueError(
                f"timm model {self.model!r} needs weights: a file, or {PRETRAINED!r} for those of "
                f"the model hub. The installed {EFFICIENTNET_LITE0!r} needs none"
            )
        if self.weights == PRETRAINED:
            return {"pretrained": True}
        if not Path(self.weights).is_file():
            raise ValueError(f"weights {self.weights!r}: no such file")
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": self.weights}}

    def key(self, batch_size: int) -> bytes:
        """Names all that decides what the network says of an image, in batches of a size."""
        decides = [
            self.model,
            self.weights_hash(),
            self.image_size,
            batch_size,
            precision(),
            _PREPROCESSING,
        ]
        return content_key(json.dumps(decides).encode())

    def save(self, file: Path) -> None:
        """Write the weights; read back by :meth:`load`."""
        from safetensors.torch import save_model

        save_model(self.load(), str(file))
