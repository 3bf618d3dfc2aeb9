"""The findings that are most worth a look: worst first, one a check, with what could not be judged
counted apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m3h_pipeline.reports.findings import describe_data_checks, select_highlights
from m3h_pipeline.state.steps import Step, produce


def check(name: str, passed: bool, severity: str = "error", **observed: Any) -> dict[str, Any]:
    words = f"The check {name}. What to do: this."
    return {
        "name": name,
        "passed": passed,
        "severity": severity,
        "description": words,
        "observed": observed,
    }


def finding(of_check: str, subject: str, share: float) -> dict[str, Any]:
    return {"check": of_check, "subject": subject, "share": share, "words": f"odd in {share:.0%}"}


EVENTS = {
    "checks": [
        check("schema", True, note="no earlier snapshot"),
        check("contract", True),
        check("units", False, "error"),
        check("sentinels", False, "warning"),
        check("outliers", False, "warning"),
    ],
    "findings": [
        finding("units", "glucose", 0.02),
        finding("sentinels", "lactate", 0.01),
        finding("outliers", "sodium", 0.3),
        finding("outliers", "map", 0.1),
    ],
}
SAMPLES = {"checks": [check("quarantine", False, "warning", share=0.04)], "findings": []}


def steps() -> dict[str, Step]:
    return {
        name: Step(Path(), "", "", info)
        for name, info in (("samples", SAMPLES), ("events", EVENTS))
    }


def test_what_stops_comes_first_then_the_larger_share() -> None:
    looks = select_highlights(steps())
    assert [(look["table"], look["check"]) for look in looks] == [
        ("events", "units"),
        ("events", "outliers"),
        ("samples", "quarantine"),
    ]
    assert [look["words"] for look in looks] == [
        "glucose: odd in 2%",
        "sodium: odd in 30%; and 1 more such",
        "The check quarantine",
    ]


def test_the_last_screen_counts_the_states_apart(tmp_path: Path) -> None:
    produce(tmp_path / "snapshots" / "2026-01-01" / "valid_events", "key", lambda to: EVENTS)
    lines = describe_data_checks(tmp_path, "2026-01-01")
    assert lines[0].startswith(
        "Data       checks: 1 passed, 1 failed, 2 warned, 1 not judged. Most worth a look"
    )
    assert lines[0].endswith(f"{tmp_path}/latest/validation.html:")
    assert lines[1:] == [
        "           - events, units: glucose: odd in 2%",
        "           - events, outliers: sodium: odd in 30%; and 1 more such",
        "           - events, sentinels: lactate: odd in 1%",
    ]
