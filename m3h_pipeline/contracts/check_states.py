"""The states of a check: a check that had nothing to look at has not passed.

Dagster knows only passed and failed, and a check that was not judged must stop nothing: there it
counts as passed, and its description and metadata say what it is. Everywhere else the states are
counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3h_pipeline.contracts import CheckResult

PASSED = "passed"
FAILED = "failed"
WARNED = "warned"
NOT_JUDGED = "not judged"
STATES = (PASSED, FAILED, WARNED, NOT_JUDGED)
_PREFIX = "Not judged: "


def state_of(check: Mapping[str, Any]) -> str:
    """The state of a check, given as a dict; a note among what it observed says why nothing was
    judged.

    >>> state_of({"passed": True, "severity": "error", "observed": {"note": "no rows"}})
    'not judged'
    >>> state_of({"passed": False, "severity": "warning", "observed": {}})
    'warned'
    """
    if not check["passed"]:
        return FAILED if check["severity"] == "error" else WARNED
    return NOT_JUDGED if "note" in check["observed"] else PASSED


def said(words: str) -> str:
    """The description of a check that was not judged.

    >>> said("There are no rows."), said("Not judged: there are no rows.")
    ('Not judged: there are no rows.', 'Not judged: there are no rows.')
    """
    return words if words.startswith(_PREFIX) else _PREFIX + words[:1].lower() + words[1:]


def is_said(words: str) -> bool:
    """Whether a description says that nothing was judged."""
    return words.startswith(_PREFIX)


def with_state(check: CheckResult) -> CheckResult:
    """A check whose description says so where nothing was judged."""
    if check.passed and "note" in check.observed:
        return replace(check, description=said(check.description))
    return check


def tally(checks: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many checks are in each state, in the order of `STATES`."""
    counts = Counter(state_of(check) for check in checks)
    return {state: counts[state] for state in STATES}


def in_words(counts: Mapping[str, int]) -> str:
    """A tally as one reads it; what passed is always said, of the others what there is.

    >>> in_words({"passed": 14, "failed": 0, "warned": 1, "not judged": 21})
    '14 passed, 1 warned, 21 not judged'
    """
    return ", ".join(
        f"{counts[state]} {state}" for state in STATES if counts[state] or state == PASSED
    )
