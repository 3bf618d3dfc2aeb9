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
    return " ".join([*sentences, _format_override(version)])


def complete_advice(advice: str, version: str, out_option: str) -> str:
    """The advice that a version's tag holds, with the command as it is typed for this out-folder.

    >>> advice = 'To accept the version all the same: m3h review approve 7 --reason "..."'
    >>> complete_advice(advice, "7", " --out my-run")
    'To accept the version all the same: m3h review approve 7 --out my-run --reason "..."'
    """
    override = _format_override(version)
    if not advice.endswith(override):
        return advice
    return advice.removesuffix(override) + _format_override(version, out_option)


def _format_override(version: str, out_option: str = "") -> str:
    command = f'm3h review approve {version}{out_option} --reason "..."'
    return f"To accept the version all the same: {command}"


def select_rejecting(verdict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The checks that a candidate was rejected for; a warning is none of them."""
    failed = [check for check in verdict["checks"] if not check["passed"]]
    return [check for check in failed if check.get("severity", "error") == "error"]
