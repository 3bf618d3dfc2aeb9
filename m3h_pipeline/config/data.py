"""Sections about the data: where it lies, who is predicted when, what is accepted and kept."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, field_validator

from m3h_pipeline.config.section import Section
from m3h_pipeline.state.snapshots import as_date

# The demo hospital lies in the past once and for all, so that its results can be compared.
DEMO_SNAPSHOT = "2026-01-01"


class SourceConfig(Section):
    """Where the hospital's data comes from."""

    name: Literal["demo", "mimic-iv", "meds", "haim", "tables"] = "demo"
    """What kind of source it is; one out-folder holds one source."""
    path: str = ""
    """The folder that holds the data; the demo has none."""
    codes: str = ""
    """Of a MEDS folder: a file that says what its codes mean. Empty: as MIMIC-IV-MEDS spells them.
    """
    labels: str = ""
    """Of a MEDS folder: a folder of MEDS labels, which needs cohort.prediction = "given"."""
    size: Literal["full", "tiny"] = "full"
    """Of the demo: 1,000 stays, or 150 and six tasks."""
    snapshot: str = ""
    """The date that the next run is labelled with, as 2026-01-31. Empty: the day of the run (the
    demo: 2026-01-01), which is then written here, so that a run that was stopped goes on under the
    same date.
    """

    @field_validator("snapshot", mode="before")
    @classmethod
    def _is_date(cls, snapshot: object) -> object:
        # TOML has dates of its own, written without quotes.
        if isinstance(snapshot, dt.date) and not isinstance(snapshot, dt.datetime):
            return snapshot.isoformat()
        if snapshot and as_date(str(snapshot)) is None:
            raise ValueError(
                f"{str(snapshot)!r} is not a date; write it as 2026-01-31, or leave it empty for "
                "today's"
            )
        return snapshot


class CohortConfig(Section):
    """Who is predicted, when, and how much memory and disk the work in DuckDB may take."""

    prediction: Literal["admission", "icu", "image", "nightly", "given"] = "admission"
    """When a stay is predicted: prediction_hours after the admission to the hospital or to
    intensive care, at each image, at nightly_at of each day in hospital, or when the data says.
    """
    prediction_hours: float = Field(24.0, gt=0)
    """Hours after the admission that the prediction is made."""
    nightly_at: str = "00:00"
    """The local hour of nightly predictions."""
    timezone: str = "UTC"
    """The time zone of the source's times, such as Europe/Berlin. Of tables: cohort.yaml says it.
    """
    holdout_months: int = Field(0, ge=0)
    """Above 0: the test split is who was admitted in that many last months. 0: a hash of the
    patient's id decides.
    """
    memory_limit: str = "4GB"
    """The memory that DuckDB may take; what does not fit goes to disk."""
    spill: str = ""
    """A folder on a large disk for what does not fit into memory_limit. Empty: in the out-folder.
    """


class InputsConfig(Section):
    """What of the hospital's records becomes input."""

    signals: Literal["listed", "covered"] = "listed"
    """Which measurements: those of data_contracts/signals.yaml (listed), or beside them every
    numeric item of labs, charts, outputs and infusion rates that enough stays have (covered). Of
    mimic-iv; other sources know listed ones alone, and tables all codes that they hold.
    """
    signal_coverage: float = Field(0.05, gt=0, le=1)
    """Of covered signals: the least share of the training stays that have one at the prediction."""
    codes: bool = True
    """Whether drugs, earlier diagnoses and stays, cultures and other codes are inputs. Without them
    they are read and checked, and no model sees them.
    """


class ValidationConfig(Section):
    """What people decided about checks of the data."""

    accepted: list[Annotated[str, Field(pattern=r"^\S+ \w+ \S.*$")]] = Field([])
    """What is right although a check stops or warns, as the check wrote it: a change against the
    last snapshot ("2026-02-01 events distribution"), or a finding, for all snapshots ("events units
    glucose").
    """
    freshness: Literal["auto", "on", "off"] = "auto"
    """Whether old data fails a check; auto: where the source says that its dates are real and of
    today.
    """


class RetentionConfig(Section):
    """How long snapshots are kept; the newest, and those of versions in use or in review, always
    are.
    """

    snapshots: int = Field(0, ge=0)
    """How many are kept; 0: no bound."""
    days: int = Field(0, ge=0)
    """How many days before the newest are kept; 0: no bound."""
