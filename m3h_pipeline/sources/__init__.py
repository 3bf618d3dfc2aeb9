"""Sources: a place that holds a hospital's data, and how it becomes the canonical tables."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Settings, Source, extract

NAMES = ("demo", "mimic-iv", "meds", "haim", "tables")

__all__ = ["NAMES", "Settings", "Source", "extract", "open_source"]


def open_source(
    name: str, path: Path, size: str = "full", *, codes: Path | None = None, labels: Path | None = None
) -> Source:
    """The source of that name at a folder (for the demo: where it is to be written, and in which size).

    ``codes`` and ``labels``: of a MEDS folder, what its codes mean, and a folder of labels.

    Raises `InputError` where the name is unknown; `Source.check` says whether the folder can be read.
    """
    if name == "demo":
        from m3h_pipeline.sources.demo import DemoHospital

        return DemoHospital(path, size)
    if name == "mimic-iv":
        from m3h_pipeline.sources.mimic_iv import MimicIV

        return MimicIV(path)
    if name == "meds":
        from m3h_pipeline.sources.meds import Meds

        return Meds(path, codes, labels)
    if name == "haim":
        from m3h_pipeline.sources.haim import Haim

        return Haim(path)
    if name == "tables":
        from m3h_pipeline.sources.tables import Tables

        return Tables(path)
    raise InputError(f"there is no source {name!r}; choose one of {', '.join(NAMES)}")
