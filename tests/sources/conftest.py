"""What several tests of sources look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from canonical_tables import extract_mimic
from mimic_folder import hospital, write


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, dict[str, pl.DataFrame], dict[str, Any]]:
    """The hospital without a fault: its folder, canonical tables and counts."""
    root = write(tmp_path_factory.mktemp("good") / "h", hospital())
    return root, *extract_mimic(root)
