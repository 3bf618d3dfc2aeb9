"""The findings about the data that are most worth a look, for the last screen and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from m3h_pipeline.contracts.checks import FAILED, WARNED, count_states, format_states, get_state
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.reports.validation import FILE as VALIDATION_PAGE
from m3h_pipeline.state.layout import snapshot_folder, valid_folder
from m3h_pipeline.state.steps import Step, read_step

MOST = 3


class Highlight(TypedDict):
    """One thing to look at; ``share``: of how many rows of the table or code it is."""

    table: str
    check: str
    stops: bool
    share: float
    words: str


def select_highlights(valid: Mapping[str, Step], most: int = MOST) -> list[Highlight]:
    """What is most worth a look in all tables, one a check: what stops the run first, then by the
    share of rows.
    """
    highlights = []
    for table, step in valid.items():
        highlights += _list_highlights(table, step.info)
    highlights.sort(key=lambda one: (not one["stops"], -one["share"], one["table"], one["check"]))
    return highlights[:most]


def _list_highlights(table: str, info: Mapping[str, Any]) -> list[Highlight]:
    highlights = []
    for check in info["checks"]:
        state = get_state(check)
        if state not in (FAILED, WARNED):
            continue
        words = check["description"].partition(" What to do: ")[0].rstrip(".")
        share = float(check["observed"].get("share", 0.0))
        findings = [one for one in info.get("findings", []) if one["check"] == check["name"]]
        if findings:
            # They come worst first.
            words = f"{findings[0]['subject']}: {findings[0]['words']}"
            share = max(finding["share"] for finding in findings)
        if len(findings) > 1:
            words += f"; and {len(findings) - 1:,} more such"
        highlights.append(
            Highlight(
                table=table,
                check=check["name"],
                stops=state == FAILED,
                share=share,
                words=words,
            )
        )
    return highlights


def describe_data_checks(out: Path, snapshot: str) -> list[str]:
    """Lines of the last screen: how many checks of the data are in which state, and what to look
    at.
    """
    folder = snapshot_folder(out, snapshot)
    steps = {table: read_step(valid_folder(folder, table)) for table in TABLES}
    valid = {table: step for table, step in steps.items() if step}
    if not valid:
        return []
    counts = count_states(check for step in valid.values() for check in step.info["checks"])
    page = out / "latest" / VALIDATION_PAGE
    highlights = select_highlights(valid)
    if not highlights:
        return [f"Data       checks: {format_states(counts)} ({page})"]
    lines = [f"Data       checks: {format_states(counts)}. Most worth a look, of all in {page}:"]
    return lines + [
        f"           - {one['table']}, {one['check']}: {one['words']}" for one in highlights
    ]
