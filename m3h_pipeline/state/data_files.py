"""JSON and arrays in an out-folder: the same value gives the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def read_json(file: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(file.read_text())


def write_json(file: Path, value: object) -> None:
    """Write JSON under a temporary name, then rename; the same value gives the same bytes."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
    os.replace(partial, file)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors, whatever their memory order: the library writes a transposed
    array scrambled.

    >>> import tempfile
    >>> from safetensors.numpy import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_arrays(Path(folder, "a"), {"a": np.arange(4).reshape(2, 2).T})
    ...     load_file(Path(folder, "a"))["a"].tolist()
    [[0, 2], [1, 3]]
    """
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
