"""The outcome of each check on drift, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m3h_pipeline.contracts.checks import describe_not_judged
from m3h_pipeline.wording import format_name, format_number, join_words, pluralize

Verdict = tuple[bool, str]
_FARTHEST = 5


def write_verdicts(results: Mapping[str, Any]) -> dict[str, Verdict]:
    """Each check's outcome and a sentence: inputs, missingness, scores, performance."""
    if results["reason"] and not results["performance"]:
        not_judged = (True, describe_not_judged(f"{results['reason']}."))
        return dict.fromkeys(("inputs", "missingness", "scores", "performance"), not_judged)
    return {
        "inputs": _verdict_on_changes(results, "inputs", "feature"),
        "missingness": _verdict_on_changes(results, "missing", "feature"),
        "scores": _verdict_on_changes(results, "scores", "task"),
        "performance": _verdict_on_performance(results["performance"]),
    }


def _verdict_on_changes(results: Mapping[str, Any], key: str, what: str) -> Verdict:
    if results["reason"]:
        return True, describe_not_judged(f"{results['reason']}.")
    records = results[key]
    changed = [record for record in records if record["changed"]]
    compared = f"{pluralize(len(records), what)} compared over {results['new']:,} new samples"
    if not changed:
        return True, f"{compared}: none has changed."
    farthest = [
        f"{format_name(record['name'])} (distance {record['distance']:.2f})"
        for record in changed[:_FARTHEST]
    ]
    more = f" and {len(changed) - _FARTHEST} more" if len(changed) > _FARTHEST else ""
    return False, f"{compared}: {len(changed)} changed: {', '.join(farthest)}{more}."


def _verdict_on_performance(records: list[dict[str, Any]]) -> Verdict:
    if not records:
        return True, describe_not_judged("No task has enough labels that have arrived since.")
    worse = [_describe_fall(record) for record in records if record["fell"] or record["uncovered"]]
    if worse:
        return False, f"Worse since the registration: {join_words(worse)}."
    judged = pluralize(len(records), "task")
    return True, (
        f"{judged} with enough labels that have arrived since: none is worse than at the "
        "registration."
    )


def _describe_fall(record: Mapping[str, Any]) -> str:
    now = format_number(record["value"])
    then = format_number(record["then"])
    fall = f"{format_name(record['task'])} {now}, was {then}"
    if not record["uncovered"]:
        return fall
    return (
        f"{fall}; {record['coverage']:.0%} of the labels within what was said, stated "
        f"{record['stated']:.0%}"
    )
