"""The repository's own Python files, parsed."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("m3h_core", "m3h_pipeline")
FOLDERS = (*PACKAGES, "benchmarks", "tests")


def python_files(*folders: str) -> list[Path]:
    """Every Python file below these folders, relative to the repository's root."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    # The files of a model that an earlier version registered stay as they were.
    own = [file for file in files if "model_format_1" not in file.parts]
    return sorted(file.relative_to(ROOT) for file in own)


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), str(file))
