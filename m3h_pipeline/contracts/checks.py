"""Checks of a table: their names, their results, and the states that a result can be in.

A check that had nothing to look at has not passed. Dagster knows only passed and failed, and a
check that was not judged must stop nothing: there it counts as passed, and its description and
metadata say what it is. Everywhere else the states are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

# The checks that a contract may ask for, in the order in which they are reported.
CONTRACT_CHECKS = {
    "schema": (
        "The columns are those of the contract, and no declared one of the last snapshot is gone "
        "or retyped."
    ),
    "contract": (
        "Every rule of the contract holds for the rows that were kept; verified by Great "
        "Expectations."
    ),
    "quarantine": "The share of rows in quarantine stays within the contract's bound.",
    "volume": "There are as many rows as the contract asks for.",
    "warnings": "What should hold, but does not stop the pipeline.",
    "change_in_volume": "There are about as many rows as in the last snapshot.",
    "distribution": (
        "Signals, tasks, kinds and declared columns are distributed as in the last snapshot; none "
        "is gone."
    ),
    "freshness": "The newest record is not much older than the snapshot; of live sources only.",
}

PASSED = "passed"
FAILED = "failed"
WARNED = "warned"
NOT_JUDGED = "not judged"
STATES = (PASSED, FAILED, WARNED, NOT_JUDGED)
_PREFIX = "Not judged: "


@dataclass(frozen=True)
class CheckResult:
    """Result of one check, for people and for Dagster; ``observed`` holds counts and rule names, no
    patient's values.

    ``severity``: "error" stops the pipeline, "warning" does not. ``passed`` with a ``note`` in
    ``observed`` means that nothing was judged.
    """

    name: str
    passed: bool
    severity: str
    description: str
    observed: dict[str, int | float | str]


def get_state(check: Mapping[str, Any]) -> str:
    """The state of a check, given as a dict; a note among what it observed says why nothing was
    judged.

    >>> get_state({"passed": True, "severity": "error", "observed": {"note": "no rows"}})
    'not judged'
    >>> get_state({"passed": False, "severity": "warning", "observed": {}})
    'warned'
    """
    if not check["passed"]:
        return FAILED if check["severity"] == "error" else WARNED
    return NOT_JUDGED if "note" in check["observed"] else PASSED


def describe_not_judged(reason: str) -> str:
    """The description of a check that was not judged.

    >>> describe_not_judged("There are no rows.")
    'Not judged: there are no rows.'
    >>> describe_not_judged("Not judged: there are no rows.")
    'Not judged: there are no rows.'
    """
    if is_not_judged(reason):
        return reason
    return _PREFIX + reason[:1].lower() + reason[1:]


def is_not_judged(description: str) -> bool:
    """Whether a description says that nothing was judged."""
    return description.startswith(_PREFIX)


def add_state(check: CheckResult) -> CheckResult:
    """The check; where nothing was judged, its description says so."""
    if check.passed and "note" in check.observed:
        return replace(check, description=describe_not_judged(check.description))
    return check


def count_states(checks: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many checks are in each state, in the order of `STATES`."""
    counts = Counter(get_state(check) for check in checks)
    return {state: counts[state] for state in STATES}


def format_states(counts: Mapping[str, int]) -> str:
    """Counts of states as one reads them; what passed is always named, of the others what there is.

    >>> format_states({"passed": 14, "failed": 0, "warned": 1, "not judged": 21})
    '14 passed, 1 warned, 21 not judged'
    """
    named = [state for state in STATES if counts[state] or state == PASSED]
    return ", ".join(f"{counts[state]} {state}" for state in named)
