"""The anchor: a version that later candidates are compared with whoever is champion, so that small
losses can't add up.

The alias ``anchor`` in MLflow. The first version that is approved gets it, and it stays there until
a person moves it (``m3h review anchor VERSION``). Where it is missing, because its version was
deleted, the next approval sets it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import find_anchor_approval
from m3h_pipeline.registry.audit import ANCHORED, Audit, get_system_user
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.digests import fetch_digest
from m3h_pipeline.registry.tags import ANCHOR
from m3h_pipeline.registry.versions import RegistryState

if TYPE_CHECKING:
    from mlflow import MlflowClient


def move_anchor(out: Path, version: str, who: str | None, why: str) -> str:
    """``m3h review anchor``: set the alias at once and write the audit line; returns what to tell
    the person.

    Raises `InputError` where there is no such version, it is the anchor already, or MLflow can't be
    reached; nothing is written then.
    """
    client = open_client(out)
    with raise_if_unreachable(client.tracking_uri):
        state = RegistryState.fetch(client)
        state.get_version(version)
        former = state.aliases.get(ANCHOR)
        if former == version and find_anchor_approval(out, version):
            raise InputError(f"version {version} is the anchor already")
        outcome = "the anchor"
        if former not in (None, version):
            outcome += f"; it was version {former}"
        digest = fetch_digest(out, version)
        user = get_system_user()
        with Audit(out).begin() as transaction:
            champion = transaction.read_last_champion()
            line = transaction.insert(
                version, ANCHORED, who or user, why, digest=digest, system_user=user
            )
            transaction.write_plan(line, outcome, champion)
            transaction.mark_settled(line)
            # Within the transaction: where this fails, no line is left.
            client.set_registered_model_alias(tracking.MODEL_NAME, ANCHOR, version)
    return f"version {version} is {outcome}; later candidates are held against it"


def set_first_anchor(
    client: MlflowClient,
    aliases: Mapping[str, str],
    former: str | None,
    champion: str,
) -> None:
    """Where there is no anchor, make it the former champion, else the one that is approved now; can
    be repeated."""
    if ANCHOR not in aliases:
        client.set_registered_model_alias(tracking.MODEL_NAME, ANCHOR, former or champion)
