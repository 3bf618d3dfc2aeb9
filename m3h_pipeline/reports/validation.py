"""``validation.html``: every check and rule of a snapshot's tables, readable without a network.
Counts only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m3h_pipeline.contracts.checks import count_states, format_states, get_state
from m3h_pipeline.contracts.model import Contract
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.split import SAMPLE_QUARANTINED, UNREADABLE
from m3h_pipeline.contracts.validation import describe_checks
from m3h_pipeline.reports import charts
from m3h_pipeline.reports.environment import build_environment
from m3h_pipeline.state.steps import Step
from m3h_pipeline.wording import format_count

FILE = "validation.html"
# The pipeline's own rules, in words.
_OWN_RULES = {
    SAMPLE_QUARANTINED: "Its sample is in quarantine.",
    UNREADABLE: "A field could not be read: text in a number, no date, broken characters.",
}


def write_validation(snapshot: str, valid: Mapping[str, Step], to: Path) -> Path:
    """Write the page of these tables' validations into the folder ``to``; returns the file.

    It replaces Great Expectations' own Data Docs, which load their style from the network.
    """
    templates = build_environment()
    templates.filters["rows"] = _format_rows
    page = templates.get_template("validation.html.j2").render(
        snapshot=snapshot,
        palette=charts.PALETTE,
        tables=[_describe_table(table, step) for table, step in valid.items()],
    )
    partial = to / f".{FILE}.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, to / FILE)
    return to / FILE


def _format_rows(number: int) -> str:
    return format_count(number) if number else "0"


def _describe_table(table: str, step: Step) -> dict[str, Any]:
    about = describe_checks(table)
    checks = step.info["checks"]
    quarantined: dict[str, int] = step.info["quarantined"]
    return {
        "name": table,
        "kept": step.info["kept"],
        "quarantined": sum(quarantined.values()),
        "tally": format_states(count_states(checks)),
        "checks": [
            {**check, "asks": about[check["name"]], "state": get_state(check)} for check in checks
        ],
        "rules": _describe_rules(load_contract(table), checks, quarantined),
    }


def _describe_rules(
    contract: Contract, checks: Iterable[Mapping[str, Any]], quarantined: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The contract's rules, then the pipeline's own where they quarantined anything."""
    broken: set[str] = set()
    default = "not judged"
    for check in checks:
        broken.update(str(check["observed"].get("broken", "")).split(", "))
        if check["name"] == "contract" and "note" not in check["observed"]:
            default = "holds"
    rules = [
        {
            "name": rule.name,
            "description": rule.description,
            "severity": rule.severity,
            "verdict": "broken" if rule.name in broken else default,
            "quarantined": quarantined.get(rule.name, 0),
        }
        for rule in contract.rules
    ]
    of_contract = {rule.name for rule in contract.rules}
    own_rules = [
        {
            "name": name,
            "description": _OWN_RULES.get(name, ""),
            "severity": "error",
            "verdict": "holds",
            "quarantined": rows,
        }
        for name, rows in quarantined.items()
        if name not in of_contract
    ]
    return rules + own_rules
