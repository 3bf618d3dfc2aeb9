"""What every source of data yields: the canonical tables, with a lineage that accounts for every
row read.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.prediction import MODES, check_clock
from m3h_pipeline.sources.splits import FRACTIONS, check_fractions

# Where a canonical row comes from and what was wrong with it: every canonical table ends with
# these.
_PROVENANCE = {"source_file": "VARCHAR", "source_row": "BIGINT", "parse_errors": "VARCHAR"}

# Canonical tables: column -> DuckDB type. Times are naive UTC, ids are text. The samples table has
# a source's declared columns between `split` and the provenance.
SAMPLE_KEYS = {
    "sample_id": "VARCHAR",
    "stay_id": "VARCHAR",
    "subject_id": "VARCHAR",
    "admit_time": "TIMESTAMP",
    "discharge_time": "TIMESTAMP",
    "prediction_time": "TIMESTAMP",
    "split": "TINYINT",
}
EVENTS = {
    "stay_id": "VARCHAR",
    "time": "TIMESTAMP",
    "available_time": "TIMESTAMP",
    "code": "VARCHAR",
    "value": "DOUBLE",
    "unit": "VARCHAR",
    **_PROVENANCE,
}
CODES = {
    "stay_id": "VARCHAR",
    "kind": "VARCHAR",
    "code": "VARCHAR",
    "time": "TIMESTAMP",
    "available_time": "TIMESTAMP",
    "value": "DOUBLE",
    **_PROVENANCE,
}
NOTES = {
    "stay_id": "VARCHAR",
    "note_id": "VARCHAR",
    "time": "TIMESTAMP",
    "available_time": "TIMESTAMP",
    "kind": "VARCHAR",
    "text": "VARCHAR",
    **_PROVENANCE,
}
IMAGES = {
    "stay_id": "VARCHAR",
    "image_id": "VARCHAR",
    "time": "TIMESTAMP",
    "available_time": "TIMESTAMP",
    "view": "VARCHAR",
    "path": "VARCHAR",
    **_PROVENANCE,
}
LABELS = {"sample_id": "VARCHAR", "task": "VARCHAR", "value": "DOUBLE", **_PROVENANCE}
EMBEDDINGS = {"sample_id": "VARCHAR", "modality": "VARCHAR", "vector": "FLOAT[]", **_PROVENANCE}

# Codes of the events table beyond those of signals.yaml, with unit and range or null, and "covered"
# where coverage chose them; a source may write it.
SIGNALS = "signals.json"


def samples_schema(declared: dict[str, str]) -> dict[str, str]:
    """Columns of the samples table of a source that declares these columns (name -> DuckDB
    type).
    """
    return {**SAMPLE_KEYS, **declared, **_PROVENANCE}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a source is read.

    ``prediction``: when each stay is predicted, one of `prediction.MODES`; ``prediction_hours``:
    how long after the admission to the hospital or the ICU; ``nightly_at``: the local hour.
    ``timezone``: that of the source's naive times, converted to UTC. ``split``: shares of subjects
    in train, valid, calibration and test; ``holdout_months``: above 0, the test split is who was
    admitted in that many last months. ``signal_coverage``: beside the listed signals, every numeric
    one that at least this share of the training stays has is read; None: the listed ones alone.
    ``tasks``: names to label, or None for all. ``memory_limit``
    as DuckDB writes it; beyond it DuckDB spills into a folder below the one written to, or below
    ``spill``.
    """

    prediction: str = "admission"
    prediction_hours: float = 24.0
    nightly_at: str = "00:00"
    timezone: str = "UTC"
    split: tuple[float, float, float, float] = FRACTIONS
    holdout_months: int = 0
    signal_coverage: float | None = None
    tasks: Collection[str] | None = None
    memory_limit: str = "4GB"
    spill: Path | None = None

    def __post_init__(self) -> None:
        if not self.prediction_hours > 0:
            raise InputError(f"prediction_hours is {self.prediction_hours}, it must be above 0")
        if self.prediction not in MODES:
            raise InputError(
                f"prediction {self.prediction!r} is not known; choose one of {', '.join(MODES)}"
            )
        check_clock(self.nightly_at)
        if self.signal_coverage is not None and not 0 < self.signal_coverage <= 1:
            raise InputError(
                f"signal_coverage is {self.signal_coverage}, it must be above 0 and at most 1"
            )
        if self.holdout_months < 0:
            raise InputError(f"holdout_months is {self.holdout_months}, it must not be below 0")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise InputError(
                f"timezone {self.timezone!r} is not known; write it as UTC or Europe/Berlin"
            ) from None
        check_fractions(self.split)


class Source(ABC):
    """A place that holds a hospital's data.

    ``supports_as_of`` says whether an extraction of a past date can still be made; where it is
    False, only the data as it is now can be read, and a backfill of the past must be refused.
    ``is_live`` says whether its dates are real and each extraction is of its day: only then does
    old data mean a feed that stands still. Those of de-identified data are shifted, often far into
    the future.
    """

    name: ClassVar[str]
    # How it can predict: some of `prediction.MODES`; another is refused.
    prediction_modes: tuple[str, ...] = ("admission",)
    supports_as_of: ClassVar[bool] = False
    is_live: ClassVar[bool] = False
    # Whether it can read signals that nobody listed: `Settings.signal_coverage`.
    covers_signals: ClassVar[bool] = False
    # Tasks that this source is meant for; None for all of tasks.yaml.
    tasks: Collection[str] | None = None

    @abstractmethod
    def check(self) -> None:
        """Raise `InputError` where the source can't be read; looks at folders and headers only."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes when the source changes; costs one listing, reads no content."""

    @abstractmethod
    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables into the empty folder ``to``; return counts that are worth
        showing.

        Among them ``rows read``: file (as the lineage names it) -> its rows, counted while reading,
        not from the lineage, which is held against it; and, where a reader must know something of
        this source, ``limits``: sentences for the report.

        Writes ``samples``, ``events``, ``notes``, ``images``, ``labels`` and ``lineage`` as
        Parquet, ``tasks.json`` (the TaskSpecs in order) and ``columns.json`` (the declared columns
        by role); a source may also write ``codes`` (sets of codes, such as drugs and earlier
        diagnoses), ``embeddings`` (vectors that are given) and ``signals.json``.
        """


def extract(source: Source, to: Path, settings: Settings) -> dict[str, Any]:
    """`Source.extract`, with an empty table of codes or embeddings where the source writes none.

    Raises `InputError` where a file of the source changed meanwhile: its rows would be of two
    extractions.
    """
    import duckdb  # the command line reads this module for every command

    from m3h_pipeline.state.database import write_parquet

    fingerprint = source.fingerprint()
    counts = source.extract(to, settings)
    if source.fingerprint() != fingerprint:
        raise InputError(
            "a file of the source was changed or replaced while it was read, so that its rows may "
            "be of two extractions: nothing was kept. Run again when the extraction is complete"
        )
    for table, schema in (("codes", CODES), ("embeddings", EMBEDDINGS)):
        file = to / f"{table}.parquet"
        if file.exists():
            continue
        absent = ", ".join(f"NULL::{kind} AS {column}" for column, kind in schema.items())
        with duckdb.connect() as connection:
            write_parquet(connection, f"SELECT {absent} WHERE FALSE", file)
    return counts


def listing_fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Hash of relative path, size and time of change of files and of all files below folders."""
    digest = hashlib.sha256()
    for file in sorted(_all_files(files)):
        # Also a link that leads nowhere has a listing.
        stat = file.stat() if file.exists() else file.lstat()
        digest.update(
            f"{file.relative_to(root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()[:32]


def _all_files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            for folder, _, names in os.walk(path):
                yield from (Path(folder, name) for name in names)
        elif path.exists():
            yield path
