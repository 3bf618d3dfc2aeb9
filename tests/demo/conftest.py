"""A synthetic hospital, and the list of its wrong rows."""

from pathlib import Path

import polars as pl
import pytest
from demo_rows import N_STAYS

from m3h_pipeline.demo import write_demo_hospital


@pytest.fixture(scope="session")
def hospital(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "hospital"
    write_demo_hospital(folder, N_STAYS, 0)
    return folder


@pytest.fixture(scope="session")
def wrong(hospital) -> pl.DataFrame:
    return pl.read_csv(hospital / "wrong_rows.csv")
