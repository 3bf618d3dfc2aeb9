"""Promotion: carry out what was decided, by moving the aliases.

`apply_decisions` writes an audit line for what was decided in MLflow's pages, does what each line
that is not settled yet asks for, and says what it did. The command calls it at once, the sensor
every few seconds. Both may act at the same time: whoever holds the audit table does the work, and
the other finds it done. Every step can be repeated: what was interrupted (by a kill, by MLflow
going down) is done by the next command or tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline import config as configuration
from m3h_pipeline.registry import tag_answers, tracking
from m3h_pipeline.registry.anchor import set_first_anchor
from m3h_pipeline.registry.audit import FOUND, Audit, AuditLine, Transaction, to_printable
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.digests import fetch_digest_or_none
from m3h_pipeline.registry.notify import notify
from m3h_pipeline.registry.tags import (
    ANCHOR,
    APPROVED,
    AUTO,
    BY,
    CHALLENGER,
    CHAMPION,
    GATE,
    JUDGED,
    PENDING,
    PREVIOUS,
    REASON,
    REJECTED,
    UNKNOWN,
    set_status,
)
from m3h_pipeline.registry.versions import RegistryState, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BY_HAND = "by hand in MLflow"


def apply_decisions(out: Path, *, auto_promote: bool = False) -> list[str]:
    """Carry out all that was decided; returns a line for each thing done.

    Raises `InputError` where MLflow can't be reached: what is left is done next time.
    """
    client = open_client(out)
    audit = Audit(out)
    with raise_if_unreachable(client.tracking_uri):
        return apply_with(audit, client, auto_promote=auto_promote)


def notify_of_changes_by_hand(out: Path, lines: Sequence[str]) -> list[str]:
    """Tell by [notify] that the champion was changed by hand; returns what went wrong."""
    if not any(_BY_HAND in line for line in lines):
        return []
    return notify(configuration.load(out).notify, "M3H: " + "; ".join(lines))


def apply_with(audit: Audit, client: MlflowClient, *, auto_promote: bool) -> list[str]:
    """`apply_decisions` with a table and a client that are open already."""
    messages: list[str] = []
    with audit.begin() as transaction:
        state = RegistryState.fetch(client)
        tags = {number: version.tags for number, version in state.versions.items()}
        messages += tag_answers.answer_mistakes(client, tags)
        _record_tag_decisions(audit.out, transaction, state)
        if auto_promote:
            _approve_challenger(audit.out, transaction, state)
    for line in audit.read_lines():
        if line.settled_at is None:
            messages += _apply_line(audit, client, line.id)
    with audit.begin() as transaction:
        messages += _record_change_by_hand(transaction, RegistryState.fetch(client), None)
    return messages


def format_outcome(line: AuditLine) -> str:
    """What was decided in a line, and what came of it."""
    return f"version {line.version}, {line.decision} by {line.who}: {line.outcome}"


# What was decided elsewhere -----------------------------------------------------------------------


def _record_tag_decisions(out: Path, transaction: Transaction, state: RegistryState) -> None:
    """Write a line for each version that was decided upon in MLflow's pages."""
    for version in state.versions.values():
        if version.status not in (APPROVED, REJECTED) or version.is_rejected_by_gate:
            continue
        last = transaction.read_last_decision(version.number)
        # A line that waits comes before the tag, which may not have been set for want of a server.
        if last and last.settled_at is None:
            continue
        if last is None or last.decision != version.status:
            who, why = _read_reviewer(version, last)
            # No command waits for this approval: without its files it stands, and scores nothing.
            is_approved = version.status == APPROVED
            digest = fetch_digest_or_none(out, version.number) if is_approved else None
            transaction.insert(version.number, version.status, who, why, digest=digest)


def _read_reviewer(version: Version, last: AuditLine | None) -> tuple[str, str]:
    """Who set the status in MLflow's pages and why, as far as the tags beside it say."""
    by = to_printable(version.tags.get(BY, ""))
    # The name of an earlier decision is still there: nobody knows who changed the tag after it.
    earlier = last.who if last else ""
    who = by if by and by not in (GATE, earlier) else UNKNOWN
    why = version.tags.get(REASON, "") if who == by else ""
    return who, why


def _approve_challenger(out: Path, transaction: Transaction, state: RegistryState) -> None:
    """Approve the challenger without a person, where it was judged at all and nobody has decided on
    it.
    """
    challenger = state.versions.get(state.aliases.get(CHALLENGER, ""))
    if challenger is None or challenger.status != PENDING:
        return
    if challenger.tags.get(JUDGED, "0") == "0":
        return
    if transaction.read_last_decision(challenger.number) is None:
        digest = fetch_digest_or_none(out, challenger.number)
        transaction.insert(challenger.number, APPROVED, AUTO, "passed the gate", digest=digest)


def _record_change_by_hand(
    transaction: Transaction, state: RegistryState, next_line: AuditLine | None
) -> list[str]:
    """Write a line where somebody moved or deleted the champion by hand; the alias is left as they
    left it.
    """
    champion = state.aliases.get(CHAMPION)
    recorded = transaction.read_last_champion()
    is_half_done = next_line is not None and next_line.champion == (champion or "")
    if champion == recorded or is_half_done:
        return []
    if champion is None:
        outcome = _explain_lost_champion(state, recorded)
    else:
        former = f"version {recorded}" if recorded else "none"
        outcome = f"version {champion} was made champion {_BY_HAND}, in the place of {former}"
    line = transaction.insert(champion or recorded or "", FOUND, UNKNOWN, "")
    transaction.write_plan(line, outcome, champion)
    transaction.mark_settled(line)
    return [outcome]


def _explain_lost_champion(state: RegistryState, recorded: str | None) -> str:
    how = "was deleted" if recorded not in state.versions else "lost its alias"
    previous = state.aliases.get(PREVIOUS)
    remedy = "approve another version"
    if previous:
        remedy = f"`m3h review rollback` brings back version {previous}"
    return (
        f"the champion, version {recorded}, {how} {_BY_HAND}: nothing is scored until then: "
        f"{remedy}"
    )


# One line -----------------------------------------------------------------------------------------


def _apply_line(audit: Audit, client: MlflowClient, line_id: int) -> list[str]:
    """Plan one line, then do it; each in a transaction of its own, so that a kill leaves the plan
    to go on from.
    """
    messages: list[str] = []
    with audit.begin() as transaction:
        line = transaction.read_line(line_id)
        state = RegistryState.fetch(client)
        if line.settled_at is None:
            messages += _record_change_by_hand(transaction, state, line)
            if line.outcome is None:
                transaction.write_plan(line_id, *_plan(state, line))
    with audit.begin() as transaction:
        line = transaction.read_line(line_id)
        state = RegistryState.fetch(client)
        if line.settled_at is not None:  # another process was faster
            return messages
        if line.version in state.versions:
            _move_aliases(client, state.aliases, line)
            set_status(client, line.version, line.decision, line.who, line.why)
        transaction.mark_settled(line_id)
    return [*messages, format_outcome(line)]


def _plan(state: RegistryState, line: AuditLine) -> tuple[str, str | None]:
    """What will come of a decision, in words, and who will be champion."""
    champion = state.aliases.get(CHAMPION)
    previous = state.aliases.get(PREVIOUS)
    if line.version not in state.versions:
        return "the version was deleted in MLflow before this could be carried out", champion
    if line.decision == APPROVED:
        outcome = "champion"
        if champion and champion != line.version:
            outcome += f"; version {champion} is kept as previous"
            if ANCHOR not in state.aliases:
                outcome += f"; version {champion} becomes the anchor, for there was none"
        return outcome, line.version
    if champion != line.version:
        return "not the champion", champion
    if previous and previous != line.version:
        return f"champion no longer; version {previous} is champion again", previous
    return (
        "champion no longer; there is no previous one, and nothing is scored until another is "
        "approved",
        None,
    )


def _move_aliases(client: MlflowClient, aliases: Mapping[str, str], line: AuditLine) -> None:
    """Bring the aliases to where the plan wants them; can be repeated after any of its calls."""
    former = aliases.get(CHAMPION)
    champion = line.champion or None
    if champion and line.decision == APPROVED:
        set_first_anchor(client, aliases, former, champion)
    if former != champion:
        if former and line.decision == APPROVED:
            # First the one that must not be lost. Until the next call the former one stays
            # champion.
            client.set_registered_model_alias(tracking.MODEL_NAME, PREVIOUS, former)
        if champion:
            client.set_registered_model_alias(tracking.MODEL_NAME, CHAMPION, champion)
        else:
            client.delete_registered_model_alias(tracking.MODEL_NAME, CHAMPION)
    current = RegistryState.fetch(client).aliases
    decided = (line.version, champion)
    for alias in (PREVIOUS, CHALLENGER):
        if current.get(alias) and current[alias] in decided:
            client.delete_registered_model_alias(tracking.MODEL_NAME, alias)
