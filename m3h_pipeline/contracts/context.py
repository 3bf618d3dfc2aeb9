"""What a table is validated beside: its snapshot, the last good one, and what a person accepted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from m3h_pipeline.contracts.checks import CheckResult


@dataclass(frozen=True)
class ValidationContext:
    """The snapshot of a table, and what it is compared with.

    ``previous``: label and Parquet file of the last good snapshot before, or None; ``is_live``:
    dates are real and each extraction is of its day, so that old data means a feed that stands
    still; ``accepted``: checks of which a person said that this snapshot's change is right;
    ``entries``: what a person accepted of the table in all snapshots. ``covered``: codes of signals
    that coverage chose, now or in the last snapshot.
    """

    snapshot: str
    previous: tuple[str, Path] | None = None
    is_live: bool = False
    accepted: frozenset[str] = frozenset()
    entries: tuple[str, ...] = ()
    covered: frozenset[str] = frozenset()


def apply_acceptance(result: CheckResult, context: ValidationContext) -> CheckResult:
    """A check that a person accepted as a whole for this snapshot passes, and says so."""
    if result.passed or result.name not in context.accepted:
        return result
    return replace(result, passed=True, description=f"Accepted in m3h.toml. {result.description}")
