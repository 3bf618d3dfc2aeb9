"""The state of a training on disk: one file, written as it goes, at no great cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3h_core.files import read_tensors, write_tensors

# A checkpoint is written when it costs at most a twentieth of the time since the last one.
_SHARE = 20


class Checkpoint:
    """``training.safetensors`` in a folder, for the work that ``key`` stands for.

    ``is_writer`` is False in all processes of a group but one.
    """

    def __init__(self, folder: Path, key: str, is_writer: bool = True) -> None:
        self.file = folder / "training.safetensors"
        self.key = key
        self.is_writer = is_writer
        self.written_at = -math.inf
        self.cost = 0.0

    @property
    def is_due(self) -> bool:
        """Whether writing now would not slow training down."""
        return self.is_writer and time.monotonic() - self.written_at >= _SHARE * self.cost

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write a state: tensors, and what is JSON."""
        if not self.is_writer:
            return
        started = time.monotonic()
        write_tensors(self.file, tensors, {**about, "key": self.key})
        self.written_at = started
        self.cost = time.monotonic() - started

    def read(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state that is there, if it belongs to this work; any other is left alone."""
        if not self.file.exists():
            return None
        tensors, about = read_tensors(self.file, device)
        return (tensors, about) if about["key"] == self.key else None
