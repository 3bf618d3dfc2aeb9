"""The core stands alone, and importing it is light."""

import subprocess
import sys

import pytest

import m3h_core
from m3h_core._torchvision_guard import is_needed
from m3h_core._torchvision_hook import add_to_environment

HEAVY = ("torch", "transformers", "timm", "torchvision", "sklearn", "scipy")
FOREIGN = (
    "m3h_pipeline",
    "dagster",
    "mlflow",
    "duckdb",
    "polars",
    "great_expectations",
    "pandas",
    "lightgbm",
)


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not _loaded("import m3h_core; m3h_core.TaskSpec, m3h_core.Cohort").intersection(
        (*HEAVY, *FOREIGN)
    )


@pytest.mark.slow(6)
def test_the_whole_core_needs_nothing_of_the_pipeline():
    loaded = _loaded("from m3h_core import *")
    assert not loaded.intersection((*FOREIGN, "transformers", "timm", "torchvision"))
    assert "torch" in loaded


@pytest.mark.slow(15)
def test_timm_can_be_imported_in_the_environment(tmp_path):
    """By a user's own program, that knows nothing of m3h_core; torch isn't loaded before it is
    asked for.
    """
    environment = add_to_environment(tmp_path)
    assert environment == is_needed() == (tmp_path / "m3h_torchvision.pth").exists()
    started = f"import site; site.addsitedir({str(tmp_path)!r})"
    assert not _loaded(started).intersection(HEAVY)
    assert "timm" in _loaded(f"{started}; import timm; timm.create_model('resnet10t')")
    assert "torchvision" in _loaded(f"{started}; from torchvision import transforms")


@pytest.mark.parametrize("name", m3h_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(m3h_core, name).__name__ == name
    assert name in dir(m3h_core)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = m3h_core.magic
