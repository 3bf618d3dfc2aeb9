"""A hospital's own tables, written, read and split by their contracts, for tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from passage import Passage
from tables_folder import COHORT, Tables, hospital, write

from m3h_pipeline.config import open_source
from m3h_pipeline.sources import Settings


def read_hospital(
    folder: Path,
    tables: Tables | None = None,
    cohort: dict[str, Any] | str | None = None,
    suffix: str = ".csv",
    **settings: Any,
) -> Passage:
    """Write the tables and read them, down to the inputs."""
    write(folder / "hospital", tables or hospital(), cohort, suffix)
    return Passage(open_source("tables", folder / "hospital"), folder / "out", Settings(**settings))


def change_cohort(**changes: Any) -> dict[str, Any]:
    """The content of cohort.yaml with other values; None takes a key out."""
    cohort = copy.deepcopy(COHORT) | changes
    return {key: value for key, value in cohort.items() if value is not None}
