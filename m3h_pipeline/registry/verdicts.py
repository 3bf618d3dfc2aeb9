"""The gate's verdict becomes a version's status: it waits for a person, or is rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.gate.advice import format_advice, select_rejecting
from m3h_pipeline.registry.tags import (
    ADVICE,
    APPROVED,
    CHALLENGER,
    GATE,
    JUDGED,
    PENDING,
    REJECTED,
    STATUS,
    SUPERSEDED,
    set_status,
)
from m3h_pipeline.registry.versions import RegistryState

if TYPE_CHECKING:
    from mlflow import MlflowClient


def record_verdict(client: MlflowClient, version: str, verdict: Mapping[str, Any]) -> str:
    """Write the gate's verdict on a version: challenger and pending, or rejected with the reasons;
    returns the status.

    What a person has decided stays as it is. A candidate that passes takes the place of those still
    waiting.
    """
    state = RegistryState.fetch(client)
    judged = state.versions[version]
    is_rejected_by_person = judged.status == REJECTED and not judged.is_rejected_by_gate
    if judged.status in (APPROVED, SUPERSEDED) or is_rejected_by_person:
        return judged.status
    client.set_model_version_tag(tracking.MODEL_NAME, version, JUDGED, str(verdict["judged"]))
    if not verdict["passed"]:
        checks = select_rejecting(verdict)
        reasons = "; ".join(f"{check['name']}: {check['reason']}" for check in checks)
        advice = format_advice(verdict, version)
        client.set_model_version_tag(tracking.MODEL_NAME, version, ADVICE, advice)
        if state.aliases.get(CHALLENGER) == version:
            client.delete_registered_model_alias(tracking.MODEL_NAME, CHALLENGER)
        set_status(client, version, REJECTED, GATE, f"{reasons}. {advice}")
        return REJECTED
    client.set_registered_model_alias(tracking.MODEL_NAME, CHALLENGER, version)
    client.set_model_version_tag(tracking.MODEL_NAME, version, STATUS, PENDING)
    for other in state.versions.values():
        if other.number != version and other.status == PENDING:
            client.set_model_version_tag(tracking.MODEL_NAME, other.number, STATUS, SUPERSEDED)
    return PENDING
