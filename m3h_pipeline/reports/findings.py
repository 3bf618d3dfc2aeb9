"""The findings about the data that are most worth a look, for the last screen and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from m3h_pipeline.contracts.checks import FAILED, WARNED, count_states, format_states, get_state
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.state.steps import Step, read_step

MOST = 3


class Look(TypedDict):
    """One thing to look at; ``share``: of how many rows of the table or code it is."""

    table: str
    check: str
    stops: bool
    share: float
    words: str


def worth_a_look(valid: Mapping[str, Step], most: int = MOST) -> list[Look]:
    """The findings of all tables, one a check: what stops the run first, then by the share of
    rows.
    """
    looks = [look for table, step in valid.items() for look in _of_table(table, step.info)]
    looks.sort(key=lambda look: (not look["stops"], -look["share"], look["table"], look["check"]))
    return looks[:most]


def _of_table(table: str, info: Mapping[str, Any]) -> list[Look]:
    looks = []
    for check in info["checks"]:
        state = get_state(check)
        if state not in (FAILED, WARNED):
            continue
        found = [
            finding for finding in info.get("findings", []) if finding["check"] == check["name"]
        ]
        words = check["description"].partition(" What to do: ")[0].rstrip(".")
        share = float(check["observed"].get("share", 0.0))
        if found:
            # They come worst first.
            words = f"{found[0]['subject']}: {found[0]['words']}"
            share = max(finding["share"] for finding in found)
        if len(found) > 1:
            words += f"; and {len(found) - 1:,} more such"
        look: Look = {
            "table": table,
            "check": check["name"],
            "stops": state == FAILED,
            "share": share,
            "words": words,
        }
        looks.append(look)
    return looks


def last_screen(out: Path, snapshot: str) -> list[str]:
    """Lines of the last screen: how many checks of the data are in which state, and what to look
    at.
    """
    from m3h_pipeline.reports.validation import FILE

    folder = out / "snapshots" / snapshot / "valid"
    valid = {table: step for table in TABLES if (step := read_step(folder / table))}
    if not valid:
        return []
    counts = count_states(check for step in valid.values() for check in step.info["checks"])
    page = out / "latest" / FILE
    looks = worth_a_look(valid)
    if not looks:
        return [f"Data       checks: {format_states(counts)} ({page})"]
    lines = [f"Data       checks: {format_states(counts)}. Most worth a look, of all in {page}:"]
    return lines + [
        f"           - {look['table']}, {look['check']}: {look['words']}" for look in looks
    ]
