"""What all tests share."""

import os
from pathlib import Path

import pytest

# Two torch threads beside another busy process give less than one (docs/decisions/0003).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def mimic_demo() -> Path:
    """The 100 real patients of the MIMIC-IV demo, where they lie beside the checkout."""
    folder = SHARED / "data" / "mimic-iv-demo"
    if not folder.is_dir():
        pytest.skip(f"the MIMIC-IV demo is not at {folder}")
    return folder
