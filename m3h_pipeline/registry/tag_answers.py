"""Tags in MLflow's pages that were meant as a decision and are none: they are answered, on the
spot.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from m3h_pipeline.errors import did_you_mean
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import APPROVED, REJECTED, printable

if TYPE_CHECKING:
    from mlflow import MlflowClient

PENDING = "pending"
SUPERSEDED = "superseded"
STATUS = "validation_status"
REASON = "validation_reason"
BY = "validation_by"
# What M3H answers to a tag that it can't read, on the same page.
ANSWER = "validation_answer"
_STATUSES = ("", APPROVED, REJECTED, PENDING, SUPERSEDED)
_ALIKE = 0.85
_LONGEST = 40


def mistake(tags: Mapping[str, str]) -> str:
    """What is wrong with a version's tags, in words; empty where nothing is.

    >>> mistake({"validation_status": "aproved"})
    "validation_status is 'aproved', which decides nothing: set approved or rejected; did you mean approved?"
    >>> mistake({"validation_state": "approved"})
    "the tag 'validation_state' decides nothing; did you mean validation_status?"
    >>> mistake({"validation_status": "pending", "validation_reason": "calibrated"})
    ''
    """
    status = tags.get(STATUS, "")
    if status not in _STATUSES:
        shown = printable(status)[:_LONGEST]
        meant = did_you_mean(shown.lower(), (APPROVED, REJECTED))
        return f"{STATUS} is {shown!r}, which decides nothing: set {APPROVED} or {REJECTED}{meant}"
    for key in sorted(set(tags) - {STATUS, REASON, BY, ANSWER}):
        if difflib.get_close_matches(key.lower(), [STATUS], 1, _ALIKE):
            return f"the tag {printable(key)[:_LONGEST]!r} decides nothing; did you mean {STATUS}?"
    return ""


def answer(client: MlflowClient, versions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Answer each version's tags (by number) once, by a tag of our own; returns what was answered
    now.
    """
    answered = []
    for number, tags in versions.items():
        words = mistake(tags)
        if words == tags.get(ANSWER, ""):
            continue
        if words:
            client.set_model_version_tag(tracking.MODEL_NAME, number, ANSWER, words)
            answered.append(f"version {number}: {words}")
        else:
            client.delete_model_version_tag(tracking.MODEL_NAME, number, ANSWER)
    return answered
