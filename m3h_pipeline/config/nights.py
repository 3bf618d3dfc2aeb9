"""Sections about what happens by itself: the nightly run, the gate, review, monitoring."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from m3h_pipeline.config.section import Section


class GateConfig(Section):
    """What a candidate must hold before a person is asked."""

    margin: float = Field(0.02, ge=0, lt=1)
    """What a task's primary metric may lose against the champion, the anchor and the night's other
    arms.
    """
    mean_margin: float = Field(0.005, ge=0, lt=1)
    """What the mean of all tasks may be lower in the estimate, where it is shown to be lower at
    all.
    """
    subgroup_margin: float = Field(0.05, ge=0, lt=1)
    """What a task may lose against the champion in a subgroup."""
    trivial_margin: float = Field(0.02, ge=0)
    """How far below a constant's score a task may be in the estimate, where its 95% interval lies
    below it.
    """
    calibration_error: float = Field(0.05, gt=0, lt=1)
    """The expected calibration error that is let pass, and what intervals may lack of
    training.coverage.
    """
    level: float = Field(0.05, gt=0, lt=0.5)
    """The chance that one rule rejects an equally good candidate, all tasks together."""
    bootstrap: int = Field(2000, ge=500)
    """Resamples of the judged patients that a check is made of."""
    strict: bool = False
    """Each task must be shown to keep its margin, which needs many patients; else their mean must,
    and no task may be shown not to.
    """


class ReviewConfig(Section):
    """Who decides on a candidate that passed the gate."""

    auto_promote: bool = False
    """It becomes the champion without a person."""


class NightlyConfig(Section):
    """When the nightly run starts, which `m3h ui` does."""

    cron: str = Field("0 2 * * *", pattern=r"^\S+( +\S+){4}$")
    """A cron line: minute, hour, day, month, day of the week."""
    timezone: str = ""
    """The time zone of cron. Empty: cohort.timezone."""
    late_after_hours: float = Field(26.0, ge=0.02)
    """Hours since the last candidate after which Dagster shows it as overdue."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(
                    f"{name!r} is not a time zone; write it as UTC or Europe/Berlin"
                ) from None
        return name


class NotifyConfig(Section):
    """Who is told of a failed night."""

    command: str = ""
    """A command that reads the message on its standard input."""
    webhook: str = Field("", pattern=r"^(https?://.*)?$")
    """A web address that gets it as JSON, {"text": ...}, which Slack, Mattermost and Teams
    understand.
    """


class MonitoringConfig(Section):
    """What counts as a change since the champion's training."""

    distance: float = Field(0.15, gt=0, lt=1)
    """The share of the samples that would have to change place for a distribution, or a share of
    missing values, to be as before.
    """
    drop: float = Field(0.05, ge=0, lt=1)
    """What a score, or the share of labels within their sets and intervals, may lose."""
    fdr: float = Field(0.05, gt=0, lt=1)
    """The false discovery rate over the features or tasks that are tested."""
