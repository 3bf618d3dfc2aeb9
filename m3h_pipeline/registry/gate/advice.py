"""What to do about a rejection, in one paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_advice(verdict: Mapping[str, Any], version: str) -> str:
    """The advice of the checks that a version failed, and how a person overrules the gate; empty
    where it passed.

    >>> failed = {"name": "calibrated", "passed": False, "advice": "look at death"}
    >>> format_advice({"passed": False, "checks": [failed]}, "7")
    'Look at death. To accept the version all the same: m3h review approve 7 --reason "..."'
    """
    if verdict["passed"]:
        return ""
    advice = [check["advice"] for check in select_rejecting(verdict) if check.get("advice")]
    sentences = [text[:1].upper() + text[1:] + "." for text in dict.fromkeys(advice)]
    return " ".join(
        [
            *sentences,
            f'To accept the version all the same: m3h review approve {version} --reason "..."',
        ]
    )


def select_rejecting(verdict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The checks that a candidate was rejected for; a warning is none of them."""
    failed = [check for check in verdict["checks"] if not check["passed"]]
    return [check for check in failed if check.get("severity", "error") == "error"]
