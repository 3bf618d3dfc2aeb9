"""Let ``import torchvision`` pass beside a torch without CUDA; import this module before timm or
transformers.

The package index's torchvision is a CUDA build. Beside a CPU build of torch its shared library does
not load, and importing it stops at ``operator torchvision::nms does not exist``: timm and
transformers' model classes stop with it. With the schemas of the two operators declared it imports;
the operators themselves, which no encoder here uses, stay unusable. Where torch has CUDA, where
torchvision is not installed or where its own library loads, nothing happens.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Kept for the life of the process: a library takes its operators with it when it is collected.
_declared: list[torch.library.Library] = []


def _library_loads() -> bool:
    """Whether torchvision's own operators can be had (it loads the same file when it is
    imported).
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for file in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            return False
        return True
    return False


def is_needed() -> bool:
    """Whether torchvision is installed, and its operators can't be had."""
    return torch.version.cuda is None and torch.version.hip is None and not _library_loads()


def guard() -> None:
    """Declare the missing operators, once."""
    if _declared or not is_needed():
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _declared.append(library)


guard()
