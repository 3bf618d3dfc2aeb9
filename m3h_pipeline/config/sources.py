"""Which source ``m3h.toml`` names, and how it is to be read."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.config.sections import Config
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings, Source
from m3h_pipeline.sources.prediction import need_mode

SOURCE_NAMES = ("demo", "mimic-iv", "meds", "haim", "tables")


def open_source(
    name: str,
    path: Path,
    size: str = "full",
    *,
    codes: Path | None = None,
    labels: Path | None = None,
) -> Source:
    """The source of that name at a folder (for the demo: where it is to be written, and in which
    size).

    ``codes`` and ``labels``: of a MEDS folder, what its codes mean, and a folder of labels.

    Raises `InputError` where the name is unknown; `Source.check` says whether the folder can be
    read.
    """
    if name == "demo":
        from m3h_pipeline.demo.source import DemoHospital

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
    raise InputError(f"there is no source {name!r}; choose one of {', '.join(SOURCE_NAMES)}")


def open_configured_source(config: Config, out: Path) -> Source:
    """The configured source; the demo hospital is written into the out-folder itself."""
    path = out / "demo-hospital" if config.source.name == "demo" else Path(config.source.path)
    codes = Path(config.source.codes) if config.source.codes else None
    labels = Path(config.source.labels) if config.source.labels else None
    return open_source(config.source.name, path, config.source.size, codes=codes, labels=labels)


def build_settings(config: Config, source: Source) -> Settings:
    """How the source is to be read; raises `InputError` where it can't be read so."""
    cohort = config.cohort
    need_mode(source.name, cohort.prediction, source.prediction_modes)
    by_coverage = config.inputs.signals == "covered" and source.covers_signals
    return Settings(
        prediction=cohort.prediction,
        prediction_hours=cohort.prediction_hours,
        nightly_at=cohort.nightly_at,
        timezone=cohort.timezone,
        holdout_months=cohort.holdout_months,
        signal_coverage=config.inputs.signal_coverage if by_coverage else None,
        tasks=source.tasks,
        memory_limit=cohort.memory_limit,
        spill=find_spill_folder(config),
    )


def find_spill_folder(config: Config) -> Path | None:
    """The folder that DuckDB may spill into, None for the one that it writes to."""
    return Path(config.cohort.spill).expanduser().absolute() if config.cohort.spill else None
