"""Tags in MLflow's pages that were meant as a decision and are none: they are answered, on the
spot.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from m3h_pipeline.errors import suggest_similar
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import to_printable
from m3h_pipeline.registry.tags import (
    ANSWER,
    APPROVED,
    BY,
    PENDING,
    REASON,
    REJECTED,
    STATUS,
    SUPERSEDED,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUSES = ("", APPROVED, REJECTED, PENDING, SUPERSEDED)
_ALIKE = 0.85
_LONGEST = 40


def explain_mistake(tags: Mapping[str, str]) -> str:
    """What is wrong with a version's tags, in words; empty where nothing is.

    >>> explain_mistake({"validation_status": "aproved"}).split("; ")[0]
    "validation_status is 'aproved', which decides nothing: set approved or rejected"
    >>> explain_mistake({"validation_state": "approved"})
    "the tag 'validation_state' decides nothing; did you mean validation_status?"
    >>> explain_mistake({"validation_status": "pending", "validation_reason": "calibrated"})
    ''
    """
    status = tags.get(STATUS, "")
    if status not in _STATUSES:
        shown = to_printable(status)[:_LONGEST]
        meant = suggest_similar(shown.lower(), (APPROVED, REJECTED))
        return f"{STATUS} is {shown!r}, which decides nothing: set {APPROVED} or {REJECTED}{meant}"
    for key in sorted(set(tags) - {STATUS, REASON, BY, ANSWER}):
        if difflib.get_close_matches(key.lower(), [STATUS], 1, _ALIKE):
            return (
                f"the tag {to_printable(key)[:_LONGEST]!r} decides nothing; did you mean {STATUS}?"
            )
    return ""


def answer_mistakes(client: MlflowClient, versions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Answer each version's tags (by number) once, by a tag of our own; returns what was answered
    now.
    """
    answered = []
    for number, tags in versions.items():
        text = explain_mistake(tags)
        if text == tags.get(ANSWER, ""):
            continue
        if text:
            client.set_model_version_tag(tracking.MODEL_NAME, number, ANSWER, text)
            answered.append(f"version {number}: {text}")
        else:
            client.delete_model_version_tag(tracking.MODEL_NAME, number, ANSWER)
    return answered
