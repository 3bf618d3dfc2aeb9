"""Review: what a person decides with ``m3h review``.

A decision is an audit line, which says who decided what and why. It is carried out at once
(m3h_pipeline/registry/promotion.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry.approval import to_approval
from m3h_pipeline.registry.audit import Audit, AuditLine, Transaction, get_system_user
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.digests import explain_mismatch, fetch_digest
from m3h_pipeline.registry.promotion import (
    apply_with,
    format_outcome,
    notify_of_changes_by_hand,
)
from m3h_pipeline.registry.tags import APPROVED, CHAMPION, PREVIOUS, REJECTED
from m3h_pipeline.registry.versions import RegistryState

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ROLLBACK = "rollback: "


def decide(out: Path, decision: str, version: str | None, who: str | None, why: str) -> str:
    """``m3h review approve`` and ``reject``: decide and carry it out; returns what to tell the
    person.

    Raises `InputError` where there is no such version, nothing to decide, or another reviewer was
    faster.
    """

    def choose(state: RegistryState) -> tuple[str, str]:
        return state.get_version(version or state.find_sole_pending()).number, decision

    def is_same(line: AuditLine) -> bool:
        return line.decision == decision and version in (None, line.version)

    return _decide(out, choose, is_same, who, why)


def roll_back(out: Path, who: str | None, why: str) -> str:
    """``m3h review rollback``: reject the champion, so that the previous one takes its place.

    Where the champion was deleted by hand, the previous one is approved again.
    """

    def choose(state: RegistryState) -> tuple[str, str]:
        if PREVIOUS not in state.aliases:
            raise InputError(
                "there is no previous champion to go back to; `m3h review reject VERSION` takes "
                "the champion's alias away"
            )
        if CHAMPION in state.aliases:
            return state.aliases[CHAMPION], REJECTED
        return state.aliases[PREVIOUS], APPROVED

    def is_same(line: AuditLine) -> bool:
        return line.why.startswith(_ROLLBACK)

    return _decide(out, choose, is_same, who, f"{_ROLLBACK}{why}")


def _decide(
    out: Path,
    choose: Callable[[RegistryState], tuple[str, str]],
    is_same: Callable[[AuditLine], bool],
    who: str | None,
    why: str,
) -> str:
    """Write the audit line and carry it out, after all that was decided before.

    ``choose`` names the version and the decision. Where the same (``is_same``) was decided before
    and interrupted, or by somebody else since this began, no second line is written.
    """
    audit = Audit(out)
    # Before MLflow is imported, which takes seconds: what others decide meanwhile is noticed.
    settled_before = {line.id for line in audit.read_lines() if line.settled_at}
    client = open_client(out)
    with raise_if_unreachable(client.tracking_uri):
        messages = apply_with(audit, client, auto_promote=False)
        with audit.begin() as transaction:
            recent = [line for line in transaction.read_lines() if line.id not in settled_before]
            same = [line.id for line in recent if is_same(line)]
            if same:
                line_id = same[-1]
            else:
                line_id = _write_line(out, transaction, client, choose, settled_before, who, why)
    try:
        with raise_if_unreachable(client.tracking_uri):
            messages += apply_with(audit, client, auto_promote=False)
    except InputError as error:
        raise InputError(
            f"the decision is in the audit table, but it is not carried out yet: {error}. Give the "
            "same command again when it is back; the sensor `review` of `m3h ui` does so too"
        ) from error
    own = next(format_outcome(line) for line in audit.read_lines() if line.id == line_id)
    others = [message for message in messages if message != own]
    return "\n".join([*others, own, *notify_of_changes_by_hand(out, others)])


def _write_line(
    out: Path,
    transaction: Transaction,
    client: MlflowClient,
    choose: Callable[[RegistryState], tuple[str, str]],
    settled_before: Collection[int],
    who: str | None,
    why: str,
) -> int:
    state = RegistryState.fetch(client)
    version, decision = choose(state)
    _refuse_second_decision(transaction, version, settled_before)
    _refuse_without_effect(transaction, state, version, decision)
    digest = _fetch_digest_to_approve(out, transaction, version) if decision == APPROVED else None
    user = get_system_user()
    return transaction.insert(version, decision, who or user, why, digest=digest, system_user=user)


def _refuse_second_decision(
    transaction: Transaction, version: str, settled_before: Collection[int]
) -> None:
    """Refuse what was decided meanwhile by another reviewer."""
    last = transaction.read_last_decision(version)
    if last and last.id not in settled_before:
        raise InputError(
            f"version {version} was {last.decision} by {last.who} at {last.at[:19]}Z, a moment "
            "before: nothing was written; look at `m3h review list` and decide again if need be"
        )


def _refuse_without_effect(
    transaction: Transaction, state: RegistryState, version: str, decision: str
) -> None:
    """Refuse what is so already: a champion whose files are approved, a version that a person
    rejected.
    """
    decided = state.versions[version]
    is_champion = state.aliases.get(CHAMPION) == version
    last = transaction.read_last_decision(version)
    has_digest = last is not None and last.decision == APPROVED and last.digest is not None
    is_approved = decision == APPROVED and is_champion and has_digest
    is_rejected = decision == REJECTED == decided.status and not decided.is_rejected_by_gate
    if is_approved or is_rejected:
        raise InputError(
            f"version {version} is {'the champion' if is_champion else 'rejected'} already"
        )


def _fetch_digest_to_approve(out: Path, transaction: Transaction, version: str) -> str:
    """The digest of what a person approves; files that have changed since an earlier approval are
    refused.
    """
    digest = fetch_digest(out, version)
    last = transaction.read_last_decision(version)
    approved = to_approval(last) if last and last.decision == APPROVED else None
    if approved and approved["digest"] != digest:
        raise InputError(explain_mismatch(version, approved))
    return digest
