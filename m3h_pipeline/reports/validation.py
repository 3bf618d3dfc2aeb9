"""``validation.html``: every check and rule of a snapshot's tables, readable without a network.
Counts only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m3h_pipeline import wording
from m3h_pipeline.contracts.checks import count_states, format_states, get_state
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.validation import describe_checks
from m3h_pipeline.reports import charts
from m3h_pipeline.reports.page import page_templates
from m3h_pipeline.state.steps import Step

FILE = "validation.html"


def write_validation(snapshot: str, valid: Mapping[str, Step], to: Path) -> Path:
    """Write the page of these tables' validations into the folder ``to``; returns the file.

    It replaces Great Expectations' own Data Docs, which load their style from the network.
    """
    templates = page_templates()
    templates.filters["rows"] = _rows
    page = templates.get_template("validation.html.j2").render(
        snapshot=snapshot,
        palette=charts.PALETTE,
        tables=[_table(table, step) for table, step in valid.items()],
    )
    partial = to / f".{FILE}.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, to / FILE)
    return to / FILE


def _rows(number: int) -> str:
    return wording.format_count(number) if number else "0"


def _table(table: str, step: Step) -> dict[str, Any]:
    contract = load_contract(table)
    about = describe_checks(table)
    checks = step.info["checks"]
    quarantined: dict[str, int] = step.info["quarantined"]
    judged = {check["name"] for check in checks if "note" not in check["observed"]}
    broken = {
        name for check in checks for name in str(check["observed"].get("broken", "")).split(", ")
    }
    return {
        "name": table,
        "kept": step.info["kept"],
        "quarantined": sum(quarantined.values()),
        "tally": format_states(count_states(checks)),
        "checks": [
            {**check, "asks": about[check["name"]], "state": get_state(check)} for check in checks
        ],
        "rules": [
            {
                "name": rule.name,
                "description": rule.description,
                "severity": rule.severity,
                "verdict": "broken"
                if rule.name in broken
                else "holds"
                if "contract" in judged
                else "not judged",
                "quarantined": quarantined.get(rule.name, 0),
            }
            for rule in contract.rules
        ]
        + _others(quarantined, {rule.name for rule in contract.rules}),
    }


def _others(quarantined: Mapping[str, int], known: Iterable[str]) -> list[dict[str, Any]]:
    """The pipeline's own rules, where they quarantined anything."""
    described = {
        "sample_quarantined": "Its sample is in quarantine.",
        "unreadable_field": "A field could not be read: text in a number, no date, broken characters.",
    }
    return [
        {"name": name, "description": described.get(name, ""), "severity": "error", "verdict": "holds",
         "quarantined": rows}
        for name, rows in quarantined.items() if name not in known
    ]  # fmt: skip
