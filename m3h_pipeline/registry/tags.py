"""What M3H reads and writes about a version in MLflow: aliases, and the tags of a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m3h_pipeline.registry import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Aliases. Each names one version, so there are never two champions.
CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
ANCHOR = "anchor"

# Values of the tag STATUS. The first two are decisions, and stand in the audit table as well.
APPROVED = "approved"
REJECTED = "rejected"
PENDING = "pending"
SUPERSEDED = "superseded"

# Keys of tags: what was decided, by whom, why.
STATUS = "validation_status"
BY = "validation_by"
REASON = "validation_reason"
# What M3H answers to a tag that it can't read, on the same page.
ANSWER = "validation_answer"
# How many tasks the gate could judge.
JUDGED = "m3h.gate_judged"
# What to do about the gate's rejection.
ADVICE = "m3h.gate_advice"

# Values of the tag BY that are no person's name.
GATE = "gate"
AUTO = "m3h.toml: [review] auto_promote"
UNKNOWN = "unknown (in MLflow)"

_LONGEST = 5000


def set_status(client: MlflowClient, version: str, status: str, who: str, why: str) -> None:
    """Set the three tags of a decision; the status last: people and the sensor look at it."""
    for key, value in ((BY, who), (REASON, why), (STATUS, status)):
        client.set_model_version_tag(tracking.MODEL_NAME, version, key, value[:_LONGEST])
