"""Tensors and JSON on disk: written under a temporary name, then renamed, so that a kill leaves
nothing half-done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def write_tensors(
    file: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]
) -> None:
    """Write one safetensors file whose metadata holds ``about`` as JSON; it is there in full or not
    at all.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contiguous, temporary, metadata={"about": json.dumps(about, sort_keys=True)})
    os.replace(temporary, file)


def read_tensors(
    file: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote: the tensors and ``about``."""
    with safe_open(file, framework="pt", device=str(device)) as stored:
        about = json.loads((stored.metadata() or {})["about"])
        # Cloned, because products over memory that is aligned otherwise can differ in the last bit.
        return {name: stored.get_tensor(name).clone() for name in stored.keys()}, about  # noqa: SIM118 (it is no dict)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys; it is there in full or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, file)


def read_saved_json(file: Path, what: str, formats: Collection[int]) -> dict[str, Any]:
    """The JSON beside a saved object; raises ValueError where its ``format`` is none of those that
    this version reads.
    """
    about = json.loads(file.read_text())
    if about.get("format") not in formats:
        readable = " or ".join(map(str, formats))
        raise ValueError(
            f"{file}: {what} of format {about.get('format')!r}, this version reads {readable}"
        )
    return about


def fingerprint(*parts: Any) -> str:
    """A hash of arrays, tensors and JSON-ready values: whether finished work belongs to the work
    asked for.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]
