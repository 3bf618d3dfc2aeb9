"""The anchor: a version that later candidates are held against whoever is champion, so that small
losses can't add up.

The alias ``anchor`` in MLflow. The first version that is approved gets it, and it stays there until
a person moves it (``m3h review anchor VERSION``). Where it is gone, because its version was
deleted, the next approval sets it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import digest_now, held_against
from m3h_pipeline.registry.audit import ANCHORED, Audit, system_user

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANCHOR = "anchor"


def move_anchor(out: Path, version: str, who: str | None, why: str) -> str:
    """``m3h review anchor``: set the alias at once and write the audit line; returns what to tell
    the person.

    Raises `InputError` where there is no such version, it is the anchor already, or MLflow can't be
    reached; nothing is written then.
    """
    from m3h_pipeline.registry.review import Standing, connect, reached

    client = connect(out)
    with reached(client.tracking_uri):
        standing = Standing.now(client)
        if version not in standing.versions:
            known = ", ".join(standing.versions) or "none"
            raise InputError(f"there is no version {version}; there are: {known}")
        former = standing.aliases.get(ANCHOR)
        if former == version and held_against(out, version):
            raise InputError(f"version {version} is the anchor already")
        outcome = "the anchor" + (
            f"; it was version {former}" if former not in (None, version) else ""
        )
        digest = digest_now(version)
        user = system_user()
        with Audit(out).alone() as book:
            champion = book.champion()
            line = book.write(version, ANCHORED, who or user, why, digest=digest, system_user=user)
            book.plan(line, outcome, champion)
            book.settle(line)
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
