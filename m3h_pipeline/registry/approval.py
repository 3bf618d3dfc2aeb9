"""The approved model is the one that scores: which files of a version a person approved.

The audit line of the approval holds a digest of the version's files
(m3h_pipeline/registry/digests.py), and that line decides: tags in MLflow are writable.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import Audit, AuditLine
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.digests import fetch_approved
from m3h_pipeline.registry.tags import APPROVED
from m3h_pipeline.registry.versions import find_version
from m3h_pipeline.state.paths import out_option
from m3h_pipeline.state.scratch import open_private_folder


def find_approval(out: Path, version: str) -> dict[str, str] | None:
    """Of which files, when and by whom a version was approved, in the form that jobs take.

    None where its last decision is no approval, or one without a digest.
    """
    with Audit(out).begin() as transaction:
        last = transaction.read_last_decision(version)
    return to_approval(last) if last and last.decision == APPROVED else None


def find_anchor_approval(out: Path, version: str) -> dict[str, str] | None:
    """As `find_approval`, of the last line with a digest: an anchor counts though it was rejected
    later.
    """
    lines = [line for line in Audit(out).read_lines() if line.version == version and line.digest]
    return to_approval(lines[-1]) if lines else None


def to_approval(line: AuditLine) -> dict[str, str] | None:
    """An audit line in the form that jobs take; None where it names no files."""
    if not line.digest:
        return None
    return {"digest": line.digest, "at": f"{line.at[:19]}Z", "by": line.who}


def explain_missing_approval(version: str, where: str = "") -> str:
    """What to do about a champion whose audit line has no digest, as a sentence."""
    return (
        f"version {version} of {tracking.MODEL_NAME} has no approval that names its files (it was "
        "approved with an earlier version of M3H, or its alias was set by hand in MLflow): nothing "
        f"is scored with it. Look at it again (`m3h review show {version}{where}`), then "
        f"`m3h review approve {version}{where}`"
    )


def verify(out: Path, version: str | None, to: Path | None) -> str:
    """``m3h review verify``: compare a version's files with its approval; returns what to say.

    ``to``: leave the copy that was compared there, to serve from; it must not exist yet.
    """
    if to is not None and to.exists():
        raise InputError(f"{to} is there already: name a folder that does not exist")
    client = open_client(out)
    with raise_if_unreachable(client.tracking_uri):
        number = find_version(version=version or "", where=out_option(out)).version
    approved = find_approval(out, number)
    if approved is None:
        raise InputError(explain_missing_approval(number, out_option(out)))
    with open_private_folder(out) as private:
        folder = fetch_approved(number, approved, private)
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(folder), to)
    message = (
        f"version {number} holds the files that were approved at {approved['at']} by "
        f"{approved['by']} (SHA-256 {approved['digest']})"
    )
    return message + (f"; a copy is in {to}" if to else "")
