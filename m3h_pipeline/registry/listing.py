"""What ``m3h review list`` and ``m3h review show`` print."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.registry.audit import Audit, AuditLine
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.tag_answers import explain_mistake
from m3h_pipeline.registry.tags import BY, REASON
from m3h_pipeline.registry.versions import RegistryState, Version


def format_overview(out: Path) -> str:
    """``m3h review list``: a line a version, then the audit table."""
    client = open_client(out)
    audit = Audit(out)
    with raise_if_unreachable(client.tracking_uri):
        state = RegistryState.fetch(client)
    versions = [_format_version(state, version) for version in state.versions.values()]
    lines = [_format_line(line) for line in audit.read_lines()]
    return "\n".join(
        [
            *(versions or ["no version is registered yet"]),
            "",
            *(lines or ["nothing was decided yet"]),
        ]
    )


def format_card(out: Path, number: str | None) -> str:
    """``m3h review show``: the model card, and what the gate or a person said."""
    client = open_client(out)
    with raise_if_unreachable(client.tracking_uri):
        state = RegistryState.fetch(client)
    version = state.get_version(number or state.find_sole_pending())
    by = version.tags.get(BY, "")
    reason = version.tags.get(REASON, "")
    status = f"{version.status or 'not judged'} {by} {reason}".strip()
    return f"{version.description}\n\nStatus: {status}"


def _format_version(state: RegistryState, version: Version) -> str:
    snapshot = version.tags.get("snapshot", "")
    aliases = ", ".join(state.list_aliases(version.number))
    status = version.status or "not judged"
    row = f"version {version.number:>4}  {status:<10}  {snapshot:<10}  {aliases}".rstrip()
    mistake = explain_mistake(version.tags)
    return row + (f"\n{'':14}{mistake}" if mistake else "")


def _format_line(line: AuditLine) -> str:
    """A decision, and below it what came of it.

    Then as whom the command ran, and the beginning of the digest, where the line holds them.
    """
    facts = []
    if line.system_user:
        facts.append(f"system user {line.system_user}")
    if line.digest:
        facts.append(f"files {line.digest[:12]}")
    on_record = f" ({', '.join(facts)})" if facts else ""
    outcome = line.outcome if line.settled_at else "not carried out yet"
    return (
        f"{line.at[:19]}Z  version {line.version:>4}  {line.decision} by {line.who}: "
        f"{line.why or 'no reason given'}\n"
        f"{'':22}{outcome}{on_record}"
    )
