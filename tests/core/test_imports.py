"""The core stands alone, and importing it is light."""

import subprocess
import sys

import pytest

import m3h_core

HEAVY = ("torch", "transformers", "timm", "torchvision", "sklearn", "scipy")
FOREIGN = ("m3h_pipeline", "dagster", "mlflow", "duckdb", "polars", "great_expectations", "pandas", "lightgbm")


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not _loaded("import m3h_core; m3h_core.TaskSpec, m3h_core.Cohort").intersection((*HEAVY, *FOREIGN))


def test_the_whole_core_needs_nothing_of_the_pipeline():
    loaded = _loaded("from m3h_core import *")
    assert not loaded.intersection((*FOREIGN, "transformers", "timm", "torchvision"))
    assert "torch" in loaded


@pytest.mark.parametrize("name", m3h_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(m3h_core, name).__name__ == name
    assert name in dir(m3h_core)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = m3h_core.magic
